-- Makes the consumer groups of a queue where they are missing. They start at 0: what was enqueued
-- before the first worker came is run.
-- KEYS  1 control · 2–5 the ready streams
-- ARGV  1 a random value · 2 the layout of the keys that the caller knows
-- returns {run_id, generation}, or {'LAYOUT', n} where the keys are of a newer release
local layout = redis.call('HGET', KEYS[1], 'layout')
if layout and tonumber(layout) > tonumber(ARGV[2]) then return {'LAYOUT', layout} end
local made = false
for i = 2, 5 do
  local answer = redis.pcall('XGROUP', 'CREATE', KEYS[i], GROUP, '0', 'MKSTREAM')
  if not answer.err then
    made = true
  elseif not string.find(answer.err, 'BUSYGROUP', 1, true) then
    return answer
  end
end
if made or generation(KEYS[1]) == '' then
  redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'layout', ARGV[2])
end
return {run_id(), generation(KEYS[1])}
