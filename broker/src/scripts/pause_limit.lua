-- Grants nothing more under a key of a limit for a while; a longer pause that is on stays.
-- KEYS  1 the key
-- ARGV  1 for how long, ms; 0 ends a pause
if ARGV[1] == '0' then return redis.call('HDEL', KEYS[1], 'paused') end
local longest = math.max(left('paused', redis.call('HGET', KEYS[1], 'paused') or ''), tonumber(ARGV[1]))
set('paused', longest)
keep(longest)
return 1
