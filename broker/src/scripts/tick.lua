-- Moves tasks whose time has come from the delayed set to their streams.
-- KEYS  1–5 as everywhere: control, the ready streams · 6 delayed · 7 waiting
-- ARGV  1 key prefix of the queue · 2 now ms of the caller · 3 how many at most
--       · 4 how far the caller's clock may be from ours, ms
-- returns {'SKEW', our ms} and moves nothing, or {moved, gone, next due ms or ''}
local time = redis.call('TIME')
local ours = time[1] * 1000 + math.floor(time[2] / 1000)
if math.abs(ours - ARGV[2]) > tonumber(ARGV[4]) then return {'SKEW', ours} end

local moved, gone = 0, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])) do
  local packed = redis.call('HGET', KEYS[7], id)
  redis.call('ZREM', KEYS[6], id)
  redis.call('HDEL', KEYS[7], id)
  local read, body = pcall(cmsgpack.unpack, packed)
  if packed and read then
    local stream, fields = unpack(body)
    add(KEYS[tonumber(stream)], fields)
    local key = ARGV[1] .. 'task:' .. id
    if redis.call('EXISTS', key) == 1 then redis.call('HSET', key, 'state', 'queued') end
    moved = moved + 1
  else
    gone = gone + 1
  end
end
local next_due = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
return {moved, gone, next_due[2] or ''}
