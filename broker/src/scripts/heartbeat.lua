-- Counts one more beat of a worker, unless it was declared dead.
-- KEYS  1 heartbeat · 2 info
-- ARGV  1 worker · 2 what a person may want to know of it, JSON
-- returns {'FENCED'}, or {run_id} and the heartbeat hash as a flat list: worker, counter or
--         'dead <ms> <cause>', …
local value = redis.call('HGET', KEYS[1], ARGV[1])
if value and string.sub(value, 1, 4) == 'dead' then return {'FENCED'} end
redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local answer = redis.call('HGETALL', KEYS[1])
table.insert(answer, 1, run_id())
return answer
