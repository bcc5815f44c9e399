-- Says of tasks that they run, where the caller still holds them: of the tracked ones in their
-- state, of those that have been there when a worker died among the suspects.
-- KEYS  1 control · 2–5 the ready streams · 6 suspects
-- ARGV  1 run_id · 2 generation · 3 key prefix of the queue · 4 worker · 5 now ms
--       then six a task: stream (2–5) · entry · id · attempt · tracked 1|0 · suspect 1|0
-- returns {'EPOCH'}, or per task 1, or 0 where the entry is not the caller's any more,
--         or 'cancelled ' .. who where somebody has asked for its end: it is not noted as running
if not behind_fence(KEYS[1], ARGV[1], ARGV[2]) then return {'EPOCH'} end
local FIRST, WIDTH = 6, 6
local worker = ARGV[4]

-- Which of some entries of a stream the caller holds. Those of one read stand in a row, and are asked
-- for at once; where they do not, each is.
local function held(key, entries)
  local mine = {}
  local found = of_group('XPENDING', key, GROUP, entries[1], entries[#entries], #entries, worker)
  -- Without its group, which a DEL may have taken, an entry is nobody's.
  if not found then return mine end
  for _, pending in ipairs(found) do mine[pending[1]] = true end
  for _, entry in ipairs(entries) do
    if not mine[entry] then
      local one = of_group('XPENDING', key, GROUP, entry, entry, 1, worker)
      mine[entry] = one ~= nil and one[1] ~= nil
    end
  end
  return mine
end

local streams = {}
for at = FIRST, #ARGV, WIDTH do
  local stream = ARGV[at]
  streams[stream] = streams[stream] or {}
  table.insert(streams[stream], ARGV[at + 1])
end
local mine = {}
for stream, entries in pairs(streams) do mine[stream] = held(KEYS[tonumber(stream)], entries) end

local answers = {}
for at = FIRST, #ARGV, WIDTH do
  local stream, entry, id, attempt, tracked, suspect = unpack(ARGV, at, at + WIDTH - 1)
  local key = KEYS[tonumber(stream)]
  local is_mine = mine[stream][entry]
  if ARGV[1] == '' then is_mine = is_mine and is_run(body(key, entry), id, attempt) end
  local record = ARGV[3] .. 'task:' .. id
  local asked_by = is_mine and tracked == '1' and redis.call('HGET', record, 'cancel')
  if asked_by then
    answers[#answers + 1] = 'cancelled ' .. asked_by
  else
    if is_mine and suspect == '1' then redis.call('HSET', KEYS[6], key .. ' ' .. entry, worker) end
    if is_mine and tracked == '1' then
      local new = redis.call('HSET', record, 'state', 'running', 'attempt', attempt,
        'started', ARGV[5], 'worker', worker, 'entry', entry)
      -- Somebody has deleted the record: half of one would tell nobody anything. Its end is whole again.
      if new == 5 then redis.call('DEL', record) end
    end
    answers[#answers + 1] = is_mine and 1 or 0
  end
end
return answers
