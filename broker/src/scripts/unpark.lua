-- Adds parked tasks of a name to their streams: a worker that can run them is here.
-- KEYS  1–5 as everywhere: control, the ready streams · 6 waiting · 7 parked
-- ARGV  1 key prefix of the queue · 2 the name they are parked under · 3 how many at most
-- returns {moved, gone}
local prefix, name = ARGV[1], ARGV[2]
local set = prefix .. 'parked:' .. name
local moved, gone = ready(set, KEYS[6], prefix, redis.call('ZRANGE', set, 0, ARGV[3] - 1))
list_parked(KEYS[7], set, name)
return {moved, gone}
