-- Enqueues tasks, each into its stream or, where its time has not come, into the delayed set.
-- Carries no allow-oom: a full Redis refuses new work, so that running work can be settled.
-- KEYS  1 control · 2–5 the ready streams · 6 delayed · 7 waiting
-- ARGV  1 key prefix of the queue · 2 seconds an idempotency key is kept
--       then, in their order, either many that are alike, due at once and nobody's:
--         how many · stream (2–5) · tracked 1|0 · task · max attempts · enqueued ms · version,
--         and id · env each
--       or 0 and one of any kind, in twelve:
--         stream (2–5) · due ms or '' · idempotency key or '' · hash of the call · tracked 1|0
--         · max attempts · owner or '' · id · task · enqueued ms · version · env
-- returns {1} where all were taken under their own ids, or per task
--         the id, '=' .. id where the idempotency key was known,
--         'CONFLICT' where it was used for another call, 'FULL' where the queue is at its cap
local room = room_for_more(KEYS[6])
local FIRST, WIDTH, WIDTH_ALIKE = 3, 12, 2

local answers, all = {}, true
local function answer(text)
  answers[#answers + 1] = text
end

local function record(id, state, task, max, enqueued, owner)
  local key = ARGV[1] .. 'task:' .. id
  redis.call('HSET', key, 'state', state, 'task', task, 'attempt', '1', 'max', max,
    'enqueued', enqueued)
  if owner ~= '' then redis.call('HSET', key, 'owner', owner) end
end

local function one_of_any_kind(at)
  local stream, due, key, hash, tracked, max, owner, id, task, enqueued, version, env =
    unpack(ARGV, at, at + WIDTH - 1)
  local known
  if key ~= '' then
    key = ARGV[1] .. 'idempotency:' .. key
    known = redis.call('GET', key)
  end
  if known then
    local separator = string.find(known, ' ', 1, true)
    local same = string.sub(known, separator + 1) == hash
    all = false
    return answer(same and '=' .. string.sub(known, 1, separator - 1) or 'CONFLICT')
  elseif room < 1 then
    all = false
    return answer('FULL')
  end
  room = room - 1
  if key ~= '' then redis.call('SET', key, id .. ' ' .. hash, 'EX', ARGV[2]) end
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
  if tracked == '1' then record(id, due == '' and 'queued' or 'scheduled', task, max, enqueued, owner) end
  answer(id)
end

local function alike(at, count)
  local stream, tracked, task, max, enqueued, version = unpack(ARGV, at, at + 5)
  local key = KEYS[tonumber(stream)]
  for n = at + 6, at + 5 + count * WIDTH_ALIKE, WIDTH_ALIKE do
    local id = ARGV[n]
    if room < 1 then
      all = false
      answer('FULL')
    else
      room = room - 1
      redis.call('XADD', key, '*', 'id', id, 'task', task, 'attempt', '1', 'crashes', '0',
        'enqueued', enqueued, 'version', version, 'env', ARGV[n + 1])
      if tracked == '1' then record(id, 'queued', task, max, enqueued, '') end
      answer(id)
    end
  end
end

local at = FIRST
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  if count == 0 then
    one_of_any_kind(at + 1)
    at = at + 1 + WIDTH
  else
    alike(at + 1, count)
    at = at + 7 + count * WIDTH_ALIKE
  end
end
return all and {1} or answers
