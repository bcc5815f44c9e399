-- The fence, put before every script that settles: an entry was read from one server and one
-- making of the groups; ids of another may be the same and mean other tasks.

-- '' where the server hides it, or tells the same digit all over, as some proxies do: then each
-- entry is compared by its task and attempt instead.
local function run_id()
  local info = redis.pcall('INFO', 'server')
  local id = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
  if id == string.rep(string.sub(id, 1, 1), #id) then return '' end
  return id
end

local function generation(control)
  return redis.call('HGET', control, 'generation') or ''
end

local function behind_fence(control, run, gen)
  return run_id() == run and generation(control) == gen
end
