-- Closes a claimed slot and notes what became of it, once.
-- KEYS  1 intents · 2 fired
-- ARGV  1 entry · 2 slot ms · 3 task id or '' · 4 how late, ms · 5 outcome · 6 how many notes are kept
-- returns 1 closed here · 0 was closed before
if redis.call('HDEL', KEYS[1], ARGV[1] .. ' ' .. ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], '*',
  'slot', ARGV[2], 'task', ARGV[3], 'late_ms', ARGV[4], 'outcome', ARGV[5])
return 1
