-- Takes a task that is delayed or parked out of `set` and adds it to its stream, which is the
-- n-th key. Returns whether it had a body: one without is gone.
local function ready(set, waiting, prefix, id)
  local packed = redis.call('HGET', waiting, id)
  redis.call('ZREM', set, id)
  redis.call('HDEL', waiting, id)
  local read, body = pcall(cmsgpack.unpack, packed)
  if not (packed and read) then return false end
  local n, fields = unpack(body)
  add(KEYS[tonumber(n)], fields)
  queued(prefix, id)
  return true
end

-- Keeps the list of what is parked: name -> when the first task of it is given up.
local function list_parked(list, set, name)
  local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', list, first[2], name)
  else
    redis.call('ZREM', list, name)
  end
end
