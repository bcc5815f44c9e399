-- Shows tasks of a stream that are in workers' hands, the first ones first; changes nothing.
-- KEYS  1 a ready stream
-- ARGV  1 how many at most · 2 only this task, '' any
-- returns per task {entry, id, task, attempt, crashes, enqueued ms, worker, ms since it was read}
local answer = {}
for _, held in ipairs(of_group('XPENDING', KEYS[1], GROUP, '-', '+', ARGV[1]) or {}) do
  local fields = body(KEYS[1], held[1]) or {}
  if ARGV[2] == '' or field(fields, 'id') == ARGV[2] then
    local row = shown(held[1], fields)
    row[7], row[8] = held[2], tostring(held[3])
    answer[#answer + 1] = row
  end
end
return answer
