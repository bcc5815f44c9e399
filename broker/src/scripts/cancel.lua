-- Asks for the end of a task of which something is known. What waits for its time or for a worker
-- that knows it becomes ready at once: whoever takes it finds the mark and ends it without running it.
-- KEYS  1–5 as everywhere: control, the ready streams · 6 delayed · 7 waiting · 8 parked
-- ARGV  1 key prefix of the queue · 2 task · 3 who asks
-- returns {} where nothing is known of it, or {state, worker or ''}
local prefix, id = ARGV[1], ARGV[2]
local record = prefix .. 'task:' .. id
local state, worker, asked = unpack(redis.call('HMGET', record, 'state', 'worker', 'cancel'))
if not state then return {} end
if state == 'succeeded' or state == 'failed' or state == 'cancelled' or state == 'expired' then
  return {state, ''}
end
-- Who asked first is who asked.
if not asked then redis.call('HSET', record, 'cancel', ARGV[3]) end

local packed = redis.call('HGET', KEYS[7], id)
if packed then
  local set = KEYS[6]
  if not redis.call('ZSCORE', set, id) then
    for _, name in ipairs(redis.call('ZRANGE', KEYS[8], 0, -1)) do
      local parked = prefix .. 'parked:' .. name
      if redis.call('ZSCORE', parked, id) then
        ready(parked, KEYS[7], prefix, {id})
        list_parked(KEYS[8], parked, name)
        return {'queued', ''}
      end
    end
  end
  ready(set, KEYS[7], prefix, {id})
  return {'queued', ''}
end
return {state, state == 'running' and worker or ''}
