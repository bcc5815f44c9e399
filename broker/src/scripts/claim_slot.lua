-- Claims a slot of a schedule entry: once, and only if it is later than the last one.
-- KEYS  1 last · 2 intents
-- ARGV  1 entry · 2 slot ms · 3 the task to enqueue, packed
-- returns 1 claimed · 0 somebody else has it, or a later one
local last = redis.call('HGET', KEYS[1], ARGV[1])
if last and tonumber(last) >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2], ARGV[3])
return 1
