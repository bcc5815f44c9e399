-- Adds what a dead worker held again, under new entry ids; the old ones are acknowledged and
-- deleted in the same step, so that a late settle of them is refused. Never buries: the worker
-- that takes the task next decides.
-- A death that counts is charged to all that was held and never was there before; a task that was
-- there before is charged only where it was running. So only what dies alone is charged without end.
-- KEYS  1 control · 2–5 the ready streams (2 is recovered) · 6 suspects
-- ARGV  1 key prefix of the queue · 2 the dead worker · 3 whether the death counts, 0 or 1
--       · 4 how many at most
-- returns {added again, gone, still to do}
local left, added, gone, more = tonumber(ARGV[4]), 0, 0, 0
for i = 2, 5 do
  -- Asked for one more than is taken, so that the answer tells whether anything is left.
  local pending = of_group('XPENDING', KEYS[i], GROUP, '-', '+', left + 1, ARGV[2])
  if pending then
    for n, held in ipairs(pending) do
      if left == 0 then
        more = 1
        break
      end
      left = left - 1
      local entry = held[1]
      local fields = body(KEYS[i], entry)
      local was_running = redis.call('HDEL', KEYS[6], KEYS[i] .. ' ' .. entry) == 1
      if fields then
        local crashes = tonumber(field(fields, 'crashes') or '') or 0
        if ARGV[3] == '1' and (crashes == 0 or was_running) then
          fields = with(fields, 'crashes', crashes + 1)
        end
        add(KEYS[2], fields)
        queued(ARGV[1], field(fields, 'id') or '')
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
