-- The fence, put before every script that settles: an entry was read from one server and one
-- making of the groups; ids of another may be the same and mean other tasks.
local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
end

local function generation(control)
  return redis.call('HGET', control, 'generation') or ''
end

local function behind_fence(control, run, gen)
  return run_id() == run and generation(control) == gen
end
