-- Adds what a dead worker held again, under new entry ids; the old ones are acknowledged and
-- deleted in the same step, so that a late settle of them is refused. Never buries: the worker
-- that takes the task next decides.
-- KEYS  1 control · 2–5 the ready streams (2 is recovered)
-- ARGV  1 key prefix of the queue · 2 the dead worker · 3 crashes to charge, 0 or 1 · 4 how many at most
-- returns {added again, gone, still to do}
local left, added, gone, more = tonumber(ARGV[4]), 0, 0, 0
for i = 2, 5 do
  -- Asked for one more than is taken, so that the answer tells whether anything is left.
  local pending = redis.pcall('XPENDING', KEYS[i], GROUP, '-', '+', left + 1, ARGV[2])
  if not pending.err then
    for n, held in ipairs(pending) do
      if left == 0 then
        more = 1
        break
      end
      left = left - 1
      local entry = held[1]
      local fields = body(KEYS[i], entry)
      if fields then
        fields = with(fields, 'crashes', (tonumber(field(fields, 'crashes') or '') or 0) + ARGV[3])
        add(KEYS[2], fields)
        local key = ARGV[1] .. 'task:' .. (field(fields, 'id') or '')
        if redis.call('EXISTS', key) == 1 then redis.call('HSET', key, 'state', 'queued') end
        added = added + 1
      else
        gone = gone + 1
      end
      redis.call('XACK', KEYS[i], GROUP, entry)
      redis.call('XDEL', KEYS[i], entry)
    end
    -- DELCONSUMER forgets what is pending: only once nothing is.
    if #redis.call('XPENDING', KEYS[i], GROUP, '-', '+', 1, ARGV[2]) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[i], GROUP, ARGV[2])
    end
  end
end
return {added, gone, more}
