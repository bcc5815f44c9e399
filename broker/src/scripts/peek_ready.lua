-- Shows tasks that wait in a stream and are in nobody's hands, the next one first; changes nothing.
-- What was acknowledged is deleted, so what lies behind the last that is held waits.
-- KEYS  1 a ready stream
-- ARGV  1 the entry to go on after, '' the first that waits · 2 how many are looked at
--       · 3 only this task, '' any
-- returns {how many were looked at, the last of them or '' where none comes after it}, then per task
--         {entry, id, task, attempt, crashes, enqueued ms}
local from = ARGV[1]
if from == '' then
  local held = of_group('XPENDING', KEYS[1], GROUP)
  from = held and held[1] > 0 and held[3] or ''
end
local found = redis.call('XRANGE', KEYS[1], from == '' and '-' or '(' .. from, '+', 'COUNT', ARGV[2])
local answer, last = {}, ''
for _, entry in ipairs(found) do
  last = entry[1]
  if ARGV[3] == '' or field(entry[2], 'id') == ARGV[3] then
    answer[#answer + 1] = shown(entry[1], entry[2])
  end
end
if #found < tonumber(ARGV[2]) then last = '' end
table.insert(answer, 1, {tostring(#found), last})
return answer
