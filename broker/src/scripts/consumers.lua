-- Names who reads the streams of a queue, or ever held something of it.
-- KEYS  1 control · 2–5 the ready streams
-- returns {consumer, …}, each as often as it has streams
local names = {}
for i = 2, 5 do
  -- An error: nobody has read the stream yet, or it is gone.
  local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[i], GROUP)
  for _, consumer in ipairs(consumers) do names[#names + 1] = field(consumer, 'name') end
end
return names
