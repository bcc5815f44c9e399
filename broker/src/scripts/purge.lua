-- Throws away tasks that wait, a batch: of a stream what is in nobody's hands, or what is delayed or
-- parked. What is known of them is that they were cancelled.
-- KEYS  1 control · 2–5 the ready streams · 6 a set of what is delayed, or parked under a name
--       · 7 waiting · 8 parked
-- ARGV  1 key prefix of the queue · 2 who · 3 now ms · 4 seconds their end is kept · 5 how many at most
--       · 6 the stream (2–5), or 'delayed', or the name they are parked under
-- returns how many were thrown away; fewer than asked for: there are no more
local prefix, who, now, ttl, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local function end_of(id)
  if not id or id == '' then return end
  local key = prefix .. 'task:' .. id
  if redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'state', 'cancelled', 'finished', now, 'error', 'purged by ' .. who)
    redis.call('EXPIRE', key, ttl)
  end
end

local stream = KEYS[tonumber(ARGV[6]) or 0]
if stream then
  local held = of_group('XPENDING', stream, GROUP)
  local from = held and held[1] > 0 and '(' .. held[3] or '-'
  local found = redis.call('XRANGE', stream, from, '+', 'COUNT', most)
  for _, entry in ipairs(found) do
    end_of(field(entry[2], 'id'))
    redis.call('XDEL', stream, entry[1])
  end
  return #found
end
local ids = redis.call('ZRANGE', KEYS[6], 0, most - 1)
for _, id in ipairs(ids) do
  end_of(id)
  redis.call('ZREM', KEYS[6], id)
  redis.call('HDEL', KEYS[7], id)
end
if ARGV[6] ~= 'delayed' then list_parked(KEYS[8], KEYS[6], ARGV[6]) end
return #ids
