-- Pauses a queue, or lets it go on, and tells its workers. The first word on a pause stands.
-- KEYS  1 control
-- ARGV  1 the channel that workers hear · 2 'pause' or 'resume' · 3 who · 4 why · 5 now ms
-- returns 1 changed · 0 it stood like that already
local paused = redis.call('HGET', KEYS[1], 'paused') ~= false
if paused == (ARGV[2] == 'pause') then return 0 end
if ARGV[2] == 'pause' then
  redis.call('HSET', KEYS[1], 'paused', '1', 'by', ARGV[3], 'why', ARGV[4], 'since', ARGV[5])
else
  redis.call('HDEL', KEYS[1], 'paused', 'by', 'why', 'since')
end
redis.call('PUBLISH', ARGV[1], 'control')
return 1
