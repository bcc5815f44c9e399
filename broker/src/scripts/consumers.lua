-- Names who reads the streams of a queue, or ever held something of it.
-- KEYS  1 control · 2–5 the ready streams
-- returns {consumer, …}, each as often as it has streams
local names = {}
for i = 2, 5 do
  for _, consumer in ipairs(of_group('XINFO', 'CONSUMERS', KEYS[i], GROUP) or {}) do
    names[#names + 1] = field(consumer, 'name')
  end
end
return names
