-- Moves tasks whose time has come to their streams: the delayed, and the parked that are given up,
-- which the worker that takes them buries.
-- KEYS  1–5 as everywhere: control, the ready streams · 6 delayed · 7 waiting · 8 parked
-- ARGV  1 key prefix of the queue · 2 now ms of the caller · 3 how many at most
--       · 4 how far the caller's clock may be from ours, ms
-- returns {'SKEW', our ms, whether the queue is paused, 1 or 0} and moves nothing, or {moved, gone,
--         next due ms or '', whether it is paused, a name under which tasks are parked, …}
local prefix, now, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local ours = time[1] * 1000 + math.floor(time[2] / 1000)
-- For whoever did not hear of it.
local paused = redis.call('HGET', KEYS[1], 'paused') and 1 or 0
if math.abs(ours - now) > tonumber(ARGV[4]) then return {'SKEW', ours, paused} end

local moved, gone = 0, 0
local function move_due(set)
  local due = redis.call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, most - moved - gone)
  local more, lost = ready(set, KEYS[7], prefix, due)
  moved, gone = moved + more, gone + lost
end

move_due(KEYS[6])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[8], '-inf', now)) do
  local set = prefix .. 'parked:' .. name
  move_due(set)
  list_parked(KEYS[8], set, name)
end
local next_due = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
return {moved, gone, next_due[2] or '', paused, unpack(redis.call('ZRANGE', KEYS[8], 0, most))}
