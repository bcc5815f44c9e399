-- Tells what Redis thinks a worker holds; changes nothing.
-- KEYS  1 control · 2–5 the ready streams
-- ARGV  1 worker · 2 how many at most a stream
-- returns {run_id, generation, then four an entry: stream (2–5) · entry · id or '' · attempt or ''}
local answer = {run_id(), generation(KEYS[1])}
for i = 2, 5 do
  for _, held in ipairs(of_group('XPENDING', KEYS[i], GROUP, '-', '+', ARGV[2], ARGV[1]) or {}) do
    local fields = body(KEYS[i], held[1])
    answer[#answer + 1] = tostring(i)
    answer[#answer + 1] = held[1]
    answer[#answer + 1] = fields and field(fields, 'id') or ''
    answer[#answer + 1] = fields and field(fields, 'attempt') or ''
  end
end
return answer
