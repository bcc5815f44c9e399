-- Ends runs: acknowledges and deletes entries, and writes in the same step what became of them.
-- KEYS  1 control · 2–5 the ready streams (2 is recovered) · 6 delayed · 7 waiting · 8 dead
--       · 9 suspects · 10 parked
-- ARGV  1 run_id · 2 generation · 3 key prefix of the queue · 4 queue · 5 worker · 6 now ms
--       then fifteen a task: stream (2–5) · entry · id or '' · verdict · tracked 1|0 · suspect 1|0
--       · seconds the state of an ended task is kept · task · stream of its priority (2–5)
--       · attempt · max attempts · enqueued ms · started ms or '' · and two that the verdict names:
--         complete  result · ''             discard  state · who
--         retry     due ms · error          defer    due ms · reason
--         bury      why · error             release  '' · ''
--         park      give-up ms, a space, the name it is parked under · reason
-- returns {'EPOCH'} and changes nothing, or per task
--         1 settled · 0 stale: the entry is not ours any more, nothing was written for it
--         2 gone: the entry was ours and its body was missing
if not behind_fence(KEYS[1], ARGV[1], ARGV[2]) then return {'EPOCH'} end
local prefix, queue, worker, now = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local FIRST, WIDTH = 7, 15

-- What is added again or buried is read before the gate deletes it. Where the server hides its
-- run_id, all are, and an entry that means another run by now is left alone.
local tasks, by_stream = {}, {}
for at = FIRST, #ARGV, WIDTH do
  local t = {}
  t.stream, t.entry, t.id, t.verdict, t.tracked, t.suspect, t.ttl, t.task, t.home,
    t.attempt, t.max, t.enqueued, t.started, t.a, t.b = unpack(ARGV, at, at + WIDTH - 1)
  t.key = KEYS[tonumber(t.stream)]
  t.needs_body = t.verdict ~= 'complete' and t.verdict ~= 'discard'
  if t.needs_body or ARGV[1] == '' then t.body = body(t.key, t.entry) end
  tasks[#tasks + 1] = t
  if ARGV[1] ~= '' or is_run(t.body, t.id, t.attempt) then
    local group = by_stream[t.key] or {ids = {}, tasks = {}}
    group.ids[#group.ids + 1] = t.entry
    group.tasks[#group.tasks + 1] = t
    by_stream[t.key] = group
  end
end

-- The gate. XACK and XDEL always come together, so an entry that was added again elsewhere was
-- deleted there: where XACK does not answer for all, XDEL's answer tells which are still ours.
for key, group in pairs(by_stream) do
  if redis.call('XACK', key, GROUP, unpack(group.ids)) == #group.ids then
    redis.call('XDEL', key, unpack(group.ids))
    for _, t in ipairs(group.tasks) do t.won = true end
  else
    for _, t in ipairs(group.tasks) do t.won = redis.call('XDEL', key, t.entry) == 1 end
  end
end

-- From here on only commands that cannot fail: a script is not rolled back.
local function note(t, ...)
  if t.id ~= '' then redis.call('HSET', prefix .. 'task:' .. t.id, ...) end
end

-- Of runs that failed and were tried again, the last ones are kept beside what is known of a task.
local PAST_MAX = 20

local function past_run(t)
  return string.format('{"started":%s,"finished":%s,"worker":%s,"error":%s}',
    t.started == '' and 'null' or t.started, now, cjson.encode(worker), cjson.encode(t.b))
end

local function ended(t, state, name, value)
  if t.id == '' then return end
  local key = prefix .. 'task:' .. t.id
  if t.task == '' then
    -- No envelope: all that is known of it is what was written when it was enqueued.
    if redis.call('EXISTS', key) == 1 then
      redis.call('HSET', key, 'state', state, 'finished', now, name, value)
      redis.call('EXPIRE', key, t.ttl)
    end
    return
  end
  if t.ttl == '0' then
    if t.tracked == '1' then redis.call('DEL', key) end
    return
  end
  -- Of earlier attempts, and of an entry that is no more.
  if t.tracked == '1' then redis.call('HDEL', key, 'error', 'entry', 'progress') end
  if t.started ~= '' then redis.call('HSET', key, 'started', t.started) end
  redis.call('HSET', key, 'state', state, 'task', t.task, 'queue', queue, 'attempt', t.attempt,
    'max', t.max, 'enqueued', t.enqueued, 'finished', now, 'worker', worker, name, value)
  redis.call('EXPIRE', key, t.ttl)
end

local function wait(t, set, due, fields)
  redis.call('HSET', KEYS[7], t.id, cmsgpack.pack({t.home, fields}))
  redis.call('ZADD', set, due, t.id)
end

local apply = {
  complete = function(t) ended(t, 'succeeded', 'result', t.a) end,
  discard = function(t) ended(t, t.a, 'error', t.b) end,
  retry = function(t)
    wait(t, KEYS[6], t.a, with(t.body, 'attempt', tonumber(t.attempt) + 1))
    if t.tracked == '1' then
      note(t, 'state', 'retrying', 'error', t.b, 'attempt:' .. t.attempt, past_run(t))
      if tonumber(t.attempt) > PAST_MAX then
        redis.call('HDEL', prefix .. 'task:' .. t.id, 'attempt:' .. tonumber(t.attempt) - PAST_MAX)
      end
    end
  end,
  defer = function(t)
    wait(t, KEYS[6], t.a, t.body)
    if t.tracked == '1' then note(t, 'state', 'scheduled', 'error', t.b) end
  end,
  park = function(t)
    local give_up, name = string.match(t.a, '^(%d+) (.+)$')
    local fields = t.body
    -- Counted from the first time: however often it is tried, it is given up in the end.
    if not field(fields, 'parked') then fields = with(fields, 'parked', now) end
    wait(t, prefix .. 'parked:' .. name, give_up, fields)
    redis.call('ZADD', KEYS[10], 'LT', give_up, name)
    if t.tracked == '1' then note(t, 'state', 'parked', 'error', t.b) end
  end,
  release = function(t)
    add(KEYS[2], t.body)
    if t.tracked == '1' then note(t, 'state', 'queued') end
  end,
  bury = function(t)
    local fields = {'why', t.a, 'error', t.b, 'worker', worker, 'died', now}
    -- The four come first: of a body too wide to be kept whole, the end is cut.
    for i = 1, math.min(#t.body, WIDEST) do fields[8 + i] = t.body[i] end
    add(KEYS[8], fields)
    ended(t, 'failed', 'error', t.b)
  end,
}

local answers = {}
for i, t in ipairs(tasks) do
  if t.won and t.suspect == '1' then redis.call('HDEL', KEYS[9], t.key .. ' ' .. t.entry) end
  if not t.won then
    answers[i] = 0
  elseif t.needs_body and not t.body then
    ended(t, 'failed', 'error', 'the entry lost its body')
    answers[i] = 2
  else
    apply[t.verdict](t)
    answers[i] = 1
  end
end
return answers
