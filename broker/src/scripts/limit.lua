-- One key of a limit is a hash; each of its times stands beside the length that made it, both in ms:
--   next      nobody is granted before, since somebody just was
--   paused    nobody is granted before, since somebody said so
--   turn      when the last of those who were refused was told to ask again
--   at:<who>  until then it holds a place
-- More can never be left of a time than its length: where more is, the clock of Redis was set back, and
-- the time is written anew. So a clock that jumps makes nobody wait longer than once more.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- How long the hash outlives the last of its times.
local KEPT_MS = 60000

local function set(name, length)
  redis.call('HSET', KEYS[1], name, string.format('%.0f %.0f', now + length, length))
end

-- How much is left of a time, ms.
local function left(name, value)
  local at, length = string.match(value or '', '^(%d+) (%d+)$')
  if not at then return 0 end
  at, length = tonumber(at), tonumber(length)
  if at - now > length then
    set(name, length)
    return length
  end
  return math.max(0, at - now)
end

-- Keeps the hash for as long as this, and no shorter than it is kept already.
local function keep(longest)
  local wanted = longest + KEPT_MS
  if redis.call('PTTL', KEYS[1]) < wanted then
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', wanted))
  end
end
