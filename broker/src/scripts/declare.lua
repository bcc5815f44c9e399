-- Declares a worker dead if its heartbeat is still the one that the caller saw all the while.
-- KEYS  1 heartbeat
-- ARGV  1 worker · 2 the value observed, '' for none · 3 now ms · 4 cause
-- returns 1 declared · 0 it has beaten in between, or is dead already
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], 'dead ' .. ARGV[3] .. ' ' .. ARGV[4])
return 1
