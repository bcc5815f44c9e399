-- An entry's fields are a flat list (name, value, …); they are copied byte for byte, so that what
-- a newer release added survives an older one.
local GROUP = 'workers'

local function body(stream, entry)
  local found = redis.call('XRANGE', stream, entry, entry)
  return found[1] and found[1][2]
end

-- Asks about the group of a stream; nil where there is none, yet or any more. Another error ends the
-- script: what the server does not let us see must not look as if it were not there.
local function of_group(...)
  local answer = redis.pcall(...)
  if not answer.err then return answer end
  if string.find(answer.err, 'NOGROUP', 1, true) or string.find(answer.err, 'no such key', 1, true) then
    return nil
  end
  return redis.call(...)
end

local function field(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
end

-- Whether an entry is still this run of this task: after a failover that lost writes the same entry
-- id may mean another task, or another attempt of the same one.
local function is_run(fields, id, attempt)
  return fields and (field(fields, 'id') or '') == id and (field(fields, 'attempt') or '') == attempt
end

local function with(fields, name, value)
  for i = 1, #fields, 2 do
    if fields[i] == name then
      fields[i + 1] = tostring(value)
      return fields
    end
  end
  fields[#fields + 1] = name
  fields[#fields + 1] = tostring(value)
  return fields
end

-- Notes that a task waits in a stream again, where anything is known of it. A record that somebody has
-- made something else of does not end the script: others wait in the same step.
local function queued(prefix, id)
  local key = prefix .. 'task:' .. id
  if redis.call('EXISTS', key) == 1 then redis.pcall('HSET', key, 'state', 'queued') end
end

-- How many more tasks the queue takes: what is delayed, and what waits or runs, counts against its cap.
-- Its control is the first key, its streams are the next four.
local function room_for_more(delayed)
  local cap = tonumber(redis.call('HGET', KEYS[1], 'cap') or '')
  if not cap then return math.huge end
  local taken = redis.call('ZCARD', delayed)
  for n = 2, 5 do taken = taken + redis.call('XLEN', KEYS[n]) end
  return cap - taken
end

-- More values than a Lua call can carry: an entry that wide is not ours, what fits of it is kept.
local WIDEST = 4000

local function add(stream, fields)
  redis.call('XADD', stream, '*', unpack(fields, 1, math.min(#fields, WIDEST)))
end
