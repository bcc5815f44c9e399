-- What a person is shown of a task; of what is none of ours, what is there.
local function shown(entry, fields)
  local row = {entry}
  for _, name in ipairs({'id', 'task', 'attempt', 'crashes', 'enqueued'}) do
    row[#row + 1] = string.sub(field(fields, name) or '', 1, 300)
  end
  return row
end
