-- Shows tasks that are delayed or parked, those whose time comes first in front; changes nothing.
-- KEYS  1 delayed, or what is parked under a name · 2 waiting
-- ARGV  1 how many are passed over · 2 how many at most · 3 only this task, '' any
-- returns per task {'', id, task, attempt, crashes, enqueued ms, when its time comes, ms}
local answer = {}
local function show(id, at)
  local packed = redis.call('HGET', KEYS[2], id)
  local read, waits = pcall(cmsgpack.unpack, packed)
  local row = shown('', packed and read and waits[2] or {})
  row[2], row[7] = id, at
  answer[#answer + 1] = row
end

if ARGV[3] ~= '' then
  local at = redis.call('ZSCORE', KEYS[1], ARGV[3])
  if at then show(ARGV[3], at) end
  return answer
end
local due = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[1] + ARGV[2] - 1, 'WITHSCORES')
for n = 1, #due, 2 do show(due[n], due[n + 1]) end
return answer
