-- Notes how far a run is, where it is the run that its record tells of.
-- KEYS  1 the task's record
-- ARGV  1 worker · 2 attempt · 3 progress, JSON
-- returns 1, or 0 where the record tells of another run, of an end, or of nothing
local state, worker, attempt = unpack(redis.call('HMGET', KEYS[1], 'state', 'worker', 'attempt'))
if state ~= 'running' or worker ~= ARGV[1] or attempt ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'progress', ARGV[3])
return 1
