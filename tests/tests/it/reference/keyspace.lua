-- Reads the whole of Redis in one step, in rows of texts: {key, what it is a row of, values, …}.
local rows = {}

local function row(...) rows[#rows + 1] = {...} end

local function wide(key, part, first, fields)
  local cells = {key, part, first}
  for i = 1, #fields do cells[i + 3] = fields[i] end
  rows[#rows + 1] = cells
end

local read = {
  string = function(key) row(key, 'text', redis.call('GET', key)) end,
  hash = function(key)
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
      if string.match(key, ':waiting$') then
        local stream, body = unpack(cmsgpack.unpack(fields[i + 1]))
        table.insert(body, 1, stream)
        wide(key, 'packed', fields[i], body)
      else
        row(key, 'field', fields[i], fields[i + 1])
      end
    end
  end,
  zset = function(key)
    local members = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #members, 2 do row(key, 'member', members[i], members[i + 1]) end
  end,
  stream = function(key)
    for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do
      wide(key, 'entry', entry[1], entry[2])
    end
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      for i = 1, #group, 2 do
        if group[i] == 'last-delivered-id' then row(key, 'last', group[i + 1]) end
      end
      for _, held in ipairs(redis.call('XPENDING', key, 'workers', '-', '+', 10000)) do
        row(key, 'pending', held[1], held[2])
      end
      for _, reader in ipairs(redis.call('XINFO', 'CONSUMERS', key, 'workers')) do
        row(key, 'reader', reader[2])
      end
    end
  end,
}

for _, key in ipairs(redis.call('KEYS', '*')) do
  read[redis.call('TYPE', key).ok](key)
  local expires = redis.call('PEXPIRETIME', key)
  if expires ~= -1 then row(key, 'expires', tostring(expires)) end
end
return rows
