-- A worker's own word that it is gone: what it may still hold is recovered at once.
-- KEYS  1 heartbeat · 2 info
-- ARGV  1 worker · 2 its tombstone
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HDEL', KEYS[2], ARGV[1])
