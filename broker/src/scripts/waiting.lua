-- A task that is delayed or parked as it was packed: the number of its stream among the keys, and its
-- fields; nil where it is gone, or is none of ours.
local function unpacked(packed)
  local read, body = pcall(cmsgpack.unpack, packed)
  if not (packed and read and type(body) == 'table' and type(body[2]) == 'table') then return nil end
  local known = #body[2] > 0 and #body[2] % 2 == 0 and KEYS[tonumber(body[1])]
  return known and body or nil
end

-- Takes tasks that are delayed or parked out of `set` and adds them to their streams, in their order;
-- 128 at most. Returns how many were moved, and how many had no body: those are gone.
local function ready(set, waiting, prefix, ids)
  if #ids == 0 then return 0, 0 end
  local bodies, records, streams = {}, {}, {}
  for i, packed in ipairs(redis.call('HMGET', waiting, unpack(ids))) do
    bodies[i], records[i] = unpacked(packed) or false, prefix .. 'task:' .. ids[i]
    if bodies[i] then streams[KEYS[tonumber(bodies[i][1])]] = true end
  end
  -- A key that is no stream refuses here, before anything is taken out.
  for stream in pairs(streams) do redis.call('XLEN', stream) end
  -- Asked once of all: mostly nothing is known of any.
  local known = redis.call('EXISTS', unpack(records)) > 0
  redis.call('ZREM', set, unpack(ids))
  redis.call('HDEL', waiting, unpack(ids))
  local moved = 0
  for i, body in ipairs(bodies) do
    if body then
      add(KEYS[tonumber(body[1])], body[2])
      if known then queued(prefix, ids[i]) end
      moved = moved + 1
    end
  end
  return moved, #ids - moved
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
