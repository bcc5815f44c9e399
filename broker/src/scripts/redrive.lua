-- Adds dead letters to their streams again, each as a first attempt that no death is charged to. Each at
-- most once: in the same step it is no dead letter any more.
-- Carries no allow-oom: like enqueueing it brings new work, which a full Redis refuses.
-- KEYS  1 control · 2–5 the ready streams · 6 dead · 7 delayed
-- ARGV  1 key prefix of the queue
--       then six a letter: entry · id · stream (2–5) · tracked 1|0 · max attempts · owner or ''
-- returns per letter 1 it waits again · 0 it is no dead letter any more
--         'WIDE' it was too wide to be kept whole and stays · 'FULL' the queue is at its cap, it stays
local room = room_for_more(KEYS[7])

-- What the burial put before the fields of the task.
local OF_BURIAL = 8

local function as_first(letter)
  local fields = {}
  for i = OF_BURIAL + 1, #letter, 2 do
    -- How long it was parked was counted for its former life.
    if letter[i] ~= 'parked' then
      fields[#fields + 1] = letter[i]
      fields[#fields + 1] = letter[i + 1]
    end
  end
  return with(with(fields, 'attempt', 1), 'crashes', 0)
end

local function note(id, fields, tracked, max, owner)
  local key = ARGV[1] .. 'task:' .. id
  local known = redis.call('EXISTS', key) == 1
  if not known and tracked == '0' then return end
  redis.call('HSET', key, 'state', 'queued', 'attempt', '1')
  redis.call('HDEL', key, 'error', 'result', 'started', 'finished', 'worker', 'entry', 'cancel')
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if string.sub(name, 1, 8) == 'attempt:' then redis.call('HDEL', key, name) end
  end
  if not known then
    redis.call('HSET', key, 'task', field(fields, 'task') or '', 'max', max,
      'enqueued', field(fields, 'enqueued') or '')
    if owner ~= '' then redis.call('HSET', key, 'owner', owner) end
  end
  -- Of an untracked task it goes when it would have gone: nothing else would ever remove it.
  if tracked == '1' then redis.call('PERSIST', key) end
end

local answers = {}
for at = 2, #ARGV, 6 do
  local entry, id, stream, tracked, max, owner = unpack(ARGV, at, at + 5)
  local letter = body(KEYS[6], entry)
  local answer
  -- After a fail-over that lost writes the same entry may be another letter.
  if not letter or field(letter, 'id') ~= id then
    answer = 0
  elseif #letter >= WIDEST then
    answer = 'WIDE'
  elseif room < 1 then
    answer = 'FULL'
  else
    room = room - 1
    local fields = as_first(letter)
    redis.call('XDEL', KEYS[6], entry)
    add(KEYS[tonumber(stream)], fields)
    note(id, fields, tracked, max, owner)
    answer = 1
  end
  answers[#answers + 1] = answer
end
return answers
