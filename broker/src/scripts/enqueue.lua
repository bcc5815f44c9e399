-- Enqueues tasks, each into its stream or, where its time has not come, into the delayed set.
-- Carries no allow-oom: a full Redis refuses new work, so that running work can be settled.
-- KEYS  1 control · 2–5 the ready streams · 6 delayed · 7 waiting
-- ARGV  1 key prefix of the queue · 2 queue · 3 seconds an idempotency key is kept
--       then thirteen a task: stream (2–5) · due ms or '' · idempotency key or '' · hash of the call
--       · tracked 1|0 · max attempts · seconds the state of an ended task is kept
--       · owner or '' · id · task · enqueued ms · version · env
-- returns per task the id, '=' .. id where the idempotency key was known,
--         'CONFLICT' where it was used for another call, 'FULL' where the queue is at its cap
local room = room_for_more(KEYS[6])

local answers = {}
for at = 4, #ARGV, 13 do
  local stream, due, key, hash, tracked, max, ttl, owner, id, task, enqueued, version, env =
    unpack(ARGV, at, at + 12)
  local known
  if key ~= '' then
    key = ARGV[1] .. 'idempotency:' .. key
    known = redis.call('GET', key)
  end
  if known then
    local separator = string.find(known, ' ', 1, true)
    local same = string.sub(known, separator + 1) == hash
    answers[#answers + 1] = same and '=' .. string.sub(known, 1, separator - 1) or 'CONFLICT'
  elseif room < 1 then
    answers[#answers + 1] = 'FULL'
  else
    room = room - 1
    if key ~= '' then redis.call('SET', key, id .. ' ' .. hash, 'EX', ARGV[3]) end
    local fields = {
      'id', id, 'task', task, 'attempt', '1', 'crashes', '0',
      'enqueued', enqueued, 'version', version, 'env', env,
    }
    if due == '' then
      add(KEYS[tonumber(stream)], fields)
    else
      redis.call('HSET', KEYS[7], id, cmsgpack.pack({stream, fields}))
      redis.call('ZADD', KEYS[6], due, id)
    end
    if tracked == '1' then
      local record = {
        'state', due == '' and 'queued' or 'scheduled', 'task', task, 'queue', ARGV[2],
        'attempt', '1', 'max', max, 'enqueued', enqueued,
      }
      if owner ~= '' then with(record, 'owner', owner) end
      redis.call('HSET', ARGV[1] .. 'task:' .. id, unpack(record))
    end
    answers[#answers + 1] = id
  end
end
return answers
