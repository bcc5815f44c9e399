-- Says of tasks that they run, where the caller still holds them: of the tracked ones in their
-- state, of those that have been there when a worker died among the suspects.
-- KEYS  1 control · 2–5 the ready streams · 6 suspects
-- ARGV  1 run_id · 2 generation · 3 key prefix of the queue · 4 worker · 5 now ms
--       then six a task: stream (2–5) · entry · id · attempt · tracked 1|0 · suspect 1|0
-- returns {'EPOCH'}, or per task 1, or 0 where the entry is not the caller's any more,
--         or 'cancelled ' .. who where somebody has asked for its end: it is not noted as running
if not behind_fence(KEYS[1], ARGV[1], ARGV[2]) then return {'EPOCH'} end
local answers = {}
for at = 6, #ARGV, 6 do
  local stream, entry, id, attempt, tracked, suspect = unpack(ARGV, at, at + 5)
  local key = KEYS[tonumber(stream)]
  -- Without its group, which a DEL may have taken, the entry is nobody's.
  local mine = of_group('XPENDING', key, GROUP, entry, entry, 1, ARGV[4])
  local is_mine = mine ~= nil and mine[1] ~= nil
  if ARGV[1] == '' then is_mine = is_mine and is_run(body(key, entry), id, attempt) end
  local record = ARGV[3] .. 'task:' .. id
  local asked_by = is_mine and tracked == '1' and redis.call('HGET', record, 'cancel')
  if asked_by then
    answers[#answers + 1] = 'cancelled ' .. asked_by
  else
    if is_mine and suspect == '1' then redis.call('HSET', KEYS[6], key .. ' ' .. entry, ARGV[4]) end
    if is_mine and tracked == '1' then
      redis.call('HSET', record, 'state', 'running', 'attempt', attempt, 'started', ARGV[5],
        'worker', ARGV[4], 'entry', entry)
    end
    answers[#answers + 1] = is_mine and 1 or 0
  end
end
return answers
