-- Ends runs: acknowledges and deletes entries, and writes in the same step what became of them.
-- KEYS  1 control · 2–5 the ready streams (2 is recovered) · 6 delayed · 7 waiting · 8 dead
--       · 9 suspects · 10 parked
-- ARGV  1 run_id · 2 generation · 3 key prefix of the queue · 4 worker · 5 now ms
--       then, in the order of the runs, either many that are alike, succeeded and are no suspects:
--         how many · stream (2–5) · tracked 1|0 · seconds the state of an ended task is kept
--         · task · attempt · max attempts, and each
--         entry · id · enqueued ms · started ms or '' · result,
--         or only its entry where nothing is kept of an untracked one
--       or 0 and one of any kind, in fifteen:
--         stream (2–5) · entry · id or '' · verdict · tracked 1|0 · suspect 1|0
--         · seconds the state of an ended task is kept · task · stream of its priority (2–5)
--         · attempt · max attempts · enqueued ms · started ms or '' · and two that the verdict names:
--         complete  result · ''             discard  state · who
--         retry     due ms · error          defer    due ms · reason
--         bury      why · error             release  '' · ''
--         park      give-up ms, a space, the name it is parked under · reason
-- returns {'EPOCH'} and changes nothing, or {1} where all are settled, or per task
--         1 settled · 0 stale: the entry is not ours any more, nothing was written for it
--         2 gone: the entry was ours and its body was missing
if not behind_fence(KEYS[1], ARGV[1], ARGV[2]) then return {'EPOCH'} end
local prefix, worker, now = ARGV[3], ARGV[4], ARGV[5]
local FIRST, WIDTH, WIDTH_KEPT = 6, 15, 5

-- Stream → the entries that go through its gate, in which each has its place.
local gates = {}
local function gate(key)
  gates[key] = gates[key] or {}
  return gates[key]
end

-- What is added again or buried is read before the gate deletes it. Where the server hides its
-- run_id, all are, and an entry that means another run by now is left alone.
local function one_of_any_kind(at)
  local t = {}
  t.stream, t.entry, t.id, t.verdict, t.tracked, t.suspect, t.ttl, t.task, t.home,
    t.attempt, t.max, t.enqueued, t.started, t.a, t.b = unpack(ARGV, at, at + WIDTH - 1)
  t.key = KEYS[tonumber(t.stream)]
  t.needs_body = t.verdict ~= 'complete' and t.verdict ~= 'discard'
  if t.needs_body or ARGV[1] == '' then t.body = body(t.key, t.entry) end
  if ARGV[1] ~= '' or is_run(t.body, t.id, t.attempt) then
    local ids = gate(t.key)
    t.place = #ids + 1
    ids[t.place] = t.entry
  end
  return t
end

local runs, at = {}, FIRST
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  if count == 0 then
    runs[#runs + 1] = one_of_any_kind(at + 1)
    at = at + 1 + WIDTH
  else
    local many = {count = count, tracked = ARGV[at + 2], ttl = ARGV[at + 3], task = ARGV[at + 4],
      attempt = ARGV[at + 5], max = ARGV[at + 6], first = at + 7}
    many.key = KEYS[tonumber(ARGV[at + 1])]
    many.width = (many.ttl == '0' and many.tracked == '0') and 1 or WIDTH_KEPT
    if many.width == 1 and not gates[many.key] then
      -- Cut out at once: of most batches this is all.
      many.place = 1
      gates[many.key] = {unpack(ARGV, many.first, many.first + count - 1)}
    else
      local ids = gate(many.key)
      many.place = #ids + 1
      for n = 0, count - 1 do ids[many.place + n] = ARGV[many.first + n * many.width] end
    end
    runs[#runs + 1] = many
    at = many.first + count * many.width
  end
end

-- The gate. XACK and XDEL always come together, so an entry that was added again elsewhere was
-- deleted there: where XACK does not answer for all, XDEL's answer tells which are still ours.
local lost = {}
for key, ids in pairs(gates) do
  if redis.call('XACK', key, GROUP, unpack(ids)) == #ids then
    redis.call('XDEL', key, unpack(ids))
  else
    lost[key] = {}
    for place, entry in ipairs(ids) do lost[key][place] = redis.call('XDEL', key, entry) == 0 end
  end
end

local function won(key, place) return place and not (lost[key] and lost[key][place]) end

-- From here on only commands that cannot fail: a script is not rolled back. A record may be of another
-- type, by somebody's hand; then nothing is noted, and the task goes on all the same.
local function note(t, ...)
  -- Of a record that somebody has deleted no part comes back before the end, which is whole.
  local key = prefix .. 'task:' .. t.id
  if t.id ~= '' and redis.call('EXISTS', key) == 1 then redis.pcall('HSET', key, ...) end
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
      redis.pcall('HSET', key, 'state', state, 'finished', now, name, value)
      redis.call('EXPIRE', key, t.ttl)
    end
    return
  end
  if t.ttl == '0' then
    if t.tracked == '1' then redis.call('DEL', key) end
    return
  end
  -- Of earlier attempts, and of an entry that is no more.
  if t.tracked == '1' then redis.pcall('HDEL', key, 'error', 'entry', 'progress') end
  if t.started ~= '' then
    redis.pcall('HSET', key, 'state', state, 'task', t.task, 'attempt', t.attempt, 'max', t.max,
      'enqueued', t.enqueued, 'finished', now, 'worker', worker, name, value, 'started', t.started)
  else
    redis.pcall('HSET', key, 'state', state, 'task', t.task, 'attempt', t.attempt, 'max', t.max,
      'enqueued', t.enqueued, 'finished', now, 'worker', worker, name, value)
  end
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

-- Of many that succeeded, each that is still ours. Returns whether all are settled.
local answers, all = {}, true
local function complete(many)
  if many.width == 1 and not lost[many.key] then
    for n = 1, many.count do answers[#answers + 1] = 1 end
    return
  end
  for n = 0, many.count - 1 do
    local settled = won(many.key, many.place + n)
    if settled and many.width > 1 then
      -- One table for all: making one each costs as much as what it is for.
      local field = many.first + n * many.width
      many.id, many.enqueued, many.started = ARGV[field + 1], ARGV[field + 2], ARGV[field + 3]
      ended(many, 'succeeded', 'result', ARGV[field + 4])
    end
    all = all and settled
    answers[#answers + 1] = settled and 1 or 0
  end
end

local function settle(t)
  local answer = 1
  if not won(t.key, t.place) then
    answer = 0
  else
    if t.suspect == '1' then redis.call('HDEL', KEYS[9], t.key .. ' ' .. t.entry) end
    if t.needs_body and not t.body then
      ended(t, 'failed', 'error', 'the entry lost its body')
      answer = 2
    else
      apply[t.verdict](t)
    end
  end
  all = all and answer == 1
  answers[#answers + 1] = answer
end

for _, run in ipairs(runs) do
  if run.count then complete(run) else settle(run) end
end
return all and {1} or answers
