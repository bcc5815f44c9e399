-- Claims an idempotency key for one call, whatever its queue; who comes with the same call keeps it.
-- Carries no allow-oom: what follows brings new work.
-- KEYS  1 the key
-- ARGV  1 queue and hash of the call · 2 seconds it is kept from now on
-- returns 1, or 0 where it is claimed for another call
local known = redis.call('GET', KEYS[1])
if known and known ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
