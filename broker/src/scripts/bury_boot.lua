-- Marks every worker of one start of a process dead: the process is gone, by its parent's word.
-- KEYS  1 heartbeat · 2 info
-- ARGV  1 boot, 16 hex digits · 2 now ms · 3 cause
-- returns {worker, value, …}: the boot's workers with what stands for them now
local answer = {}
for _, worker in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.match(worker, '%-' .. ARGV[1] .. '%-%d+$') then
    local value = redis.call('HGET', KEYS[1], worker)
    -- One that signed off, or that others found silent, is dead already.
    if string.sub(value, 1, 4) ~= 'dead' then
      value = 'dead ' .. ARGV[2] .. ' ' .. ARGV[3]
      redis.call('HSET', KEYS[1], worker, value)
      redis.call('HDEL', KEYS[2], worker)
    end
    answer[#answer + 1] = worker
    answer[#answer + 1] = value
  end
end
return answer
