-- Counts one more beat of a worker, unless it was declared dead.
-- KEYS  1 heartbeat · 2 info · 3 what was asked of the worker
-- ARGV  1 worker · 2 what a person may want to know of it, JSON
-- returns {'FENCED'}, or {run_id, n}, n words of what was asked: task, who wants it ended, …, and the
--         heartbeat hash as a flat list: worker, counter or 'dead <ms> <cause>', …
local value = redis.call('HGET', KEYS[1], ARGV[1])
if value and string.sub(value, 1, 4) == 'dead' then return {'FENCED'} end
redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local answer = {run_id(), '0'}
local function append(list)
  for i = 1, #list do answer[#answer + 1] = list[i] end
end
append(redis.call('HGETALL', KEYS[3]))
answer[2] = tostring(#answer - 2)
append(redis.call('HGETALL', KEYS[1]))
return answer
