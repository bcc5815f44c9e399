-- Reads dead letters without their arguments; changes nothing.
-- KEYS  1 dead
-- ARGV  1 XRANGE, the oldest first, or XREVRANGE, the newest first · 2 · 3 from where to where, as these
--       take it · 4 how many are looked at · 5 only of this task, '' any · 6 only with this why, '' any
--       · 7 how many bytes of a text are told
-- returns {{the last that was looked at, '' where none comes after it}, then per letter {entry, name,
--         value, …}}
local SHOWN = {'why', 'error', 'worker', 'died', 'id', 'task', 'attempt', 'crashes', 'enqueued'}
local answer, last = {}, ''
local looked_at = redis.call(ARGV[1], KEYS[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])
for _, letter in ipairs(looked_at) do
  local entry, fields = letter[1], letter[2]
  last = entry
  if (ARGV[5] == '' or field(fields, 'task') == ARGV[5])
    and (ARGV[6] == '' or field(fields, 'why') == ARGV[6]) then
    local told = {entry}
    for _, name in ipairs(SHOWN) do
      local value = field(fields, name)
      if value then
        told[#told + 1] = name
        told[#told + 1] = string.sub(value, 1, tonumber(ARGV[7]))
      end
    end
    answer[#answer + 1] = told
  end
end
if #looked_at < tonumber(ARGV[4]) then last = '' end
table.insert(answer, 1, {last})
return answer
