-- Takes a place under a key of a limit, or tells when to ask again.
-- KEYS  1 the key
-- ARGV  1 who · 2 how many at once, 0 any · 3 how long from one to the next, ms · 4 lease, ms
--       · 5 how long to wait for a place that may be given back any time, ms
--       · 6 how far those who are refused are spread, ms
--       · 7 how far ahead a turn is booked, ms · 8 whether it is then at the latest, 1 or 0
-- returns how long to wait and ask again, ms; or of a place that was taken -1, less the ms until its turn
local at_once, every, lease = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local held, soonest, wait, turn, ahead = 0, math.huge, 0, 0, 0
local kept = redis.call('HGETALL', KEYS[1])
for i = 1, #kept, 2 do
  local name, rest = kept[i], left(kept[i], kept[i + 1])
  if string.sub(name, 1, 3) == 'at:' then
    if rest == 0 then
      -- Whoever held it did not renew: it is gone.
      redis.call('HDEL', KEYS[1], name)
    else
      held = held + 1
      soonest = math.min(soonest, rest)
    end
  elseif name == 'turn' then
    turn = rest
  elseif name == 'next' then
    ahead = rest
  else
    wait = math.max(wait, rest)
  end
end

local booked = tonumber(ARGV[7])
if ARGV[8] == '1' then ahead = math.min(ahead, booked) end
if ahead > booked then wait = math.max(wait, ahead) end

local pace = every
if at_once > 0 and held >= at_once then
  pace = math.max(every, tonumber(ARGV[5]))
  wait = math.max(wait, math.min(soonest, pace), 1)
end
if wait == 0 then
  if at_once > 0 then set('at:' .. ARGV[1], lease) end
  -- Who comes after it waits from its turn on.
  if every > 0 then set('next', ahead + every) end
  keep(math.max(ahead + every, lease))
  return -1 - math.ceil(ahead)
end
-- One after the other: all at once, they would be refused all but one, again and again.
local told = math.max(wait, math.min(turn, wait + tonumber(ARGV[6])))
set('turn', told + pace)
keep(told + pace)
return math.ceil(told)
