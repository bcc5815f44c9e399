-- Holds a place for another lease, whether or not it was lost meanwhile: its holder is at work.
-- KEYS  1 the key
-- ARGV  1 who · 2 lease, ms
-- returns 1 it was held all the while · 0 it was lost, and is held again
local name = 'at:' .. ARGV[1]
local held = left(name, redis.call('HGET', KEYS[1], name) or '') > 0
set(name, tonumber(ARGV[2]))
keep(tonumber(ARGV[2]))
return held and 1 or 0
