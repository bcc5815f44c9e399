-- Says of tracked tasks that they run, where the caller still holds them.
-- KEYS  1 control · 2–5 the ready streams
-- ARGV  1 run_id · 2 generation · 3 key prefix of the queue · 4 worker · 5 now ms
--       then four a task: stream (2–5) · entry · id · attempt
-- returns {'EPOCH'}, or per task 1, or 0 where the entry is not the caller's any more
if not behind_fence(KEYS[1], ARGV[1], ARGV[2]) then return {'EPOCH'} end
local answers = {}
for at = 6, #ARGV, 4 do
  local stream, entry, id, attempt = unpack(ARGV, at, at + 3)
  -- Without its group, which a DEL may have taken, the entry is nobody's: `mine` is an error.
  local mine = redis.pcall('XPENDING', KEYS[tonumber(stream)], GROUP, entry, entry, 1, ARGV[4])
  if mine[1] then
    redis.call('HSET', ARGV[3] .. 'task:' .. id,
      'state', 'running', 'attempt', attempt, 'started', ARGV[5],
      'worker', ARGV[4], 'entry', entry)
  end
  answers[#answers + 1] = mine[1] and 1 or 0
end
return answers
