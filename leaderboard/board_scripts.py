"""The Lua of the Redis boards; `board` says what the keys hold, and runs them.

KEYS begin with the board's sorted set, `players` and `meta`. Reading and placing answer nothing where the copy is cold.
A row is three values: player id, score (minus the points), what is held of the player.
"""

# Picks a `seq` that only grows, even after a flush: Redis's clock in µs, or one more than the last. (In ms, a burst of
# changes could run ahead of the clock, and a flush then take it back.)
_NEXT_SEQ = """
local function next_seq(meta)
  local t = redis.call('TIME')
  local now = t[1] * 1000000 + t[2]
  local seq = math.max(now, tonumber(redis.call('HGET', meta, 'seq') or '0') + 1)
  redis.call('HSET', meta, 'seq', string.format('%d', seq), 'changed_at', string.format('%d', math.floor(now / 1000)))
  return string.format('%d', seq)
end
"""

# ARGV: the size of the top; when each of KEYS[4…] may go (seconds since 1970); then 11 values a standing, as `packed` has them,
# the last being which of KEYS begins its day, week and month (0: it has none).
PLACE = (
    _NEXT_SEQ
    + """
local order, players, meta = KEYS[1], KEYS[2], KEYS[3]
if redis.call('HEXISTS', meta, 'watermark') == 0 then return {} end
local top = tonumber(ARGV[1]) - 1
local before = table.concat(redis.call('ZRANGE', order, 0, top, 'WITHSCORES'), ' ')
local redrawn, members = {}, {}
local function move(key, old, new, points, listed)
  listed = listed == '1' and tonumber(points) > 0
  if old and (old ~= new or not listed) then redis.call('ZREM', key, old) end
  if listed then redis.call('ZADD', key, '-' .. points, new) end
end
for i = #KEYS - 1, #ARGV, 11 do
  local id, revision, reached, earned, points, day, week, month, profile, listed, periods = unpack(ARGV, i, i + 10)
  local held = redis.call('HGET', players, id)
  local old_revision, old_reached, old_earned, old_profile = string.match(held or '', '^(%d+) (%x+) (%x+) %S+ %S+ %S+ %S+ (.*)$')
  held = old_revision and held  -- what is not ours is nothing
  if not held or tonumber(old_revision) < tonumber(revision) then
    move(order, held and old_reached .. id, reached .. id, points, listed)
    if periods ~= '0' then
      local old, new = held and old_earned .. id, earned .. id
      move(KEYS[periods + 0], old, new, day, listed)
      move(KEYS[periods + 1], old, new, week, listed)
      move(KEYS[periods + 2], old, new, month, listed)
    end
    redis.call('HSET', players, id, table.concat({revision, reached, earned, points, day, week, month, profile}, ' '))
    if held and old_profile ~= profile then redrawn[reached .. id] = true end
    members[#members + 1] = reached .. id
  else
    members[#members + 1] = old_reached .. id
  end
end
for k = 4, #KEYS do redis.call('EXPIREAT', KEYS[k], ARGV[k - 2]) end
local after = redis.call('ZRANGE', order, 0, top, 'WITHSCORES')
local changed = table.concat(after, ' ') ~= before
for _, member in ipairs(after) do changed = changed or redrawn[member] ~= nil end
local answer = {changed and next_seq(meta) or redis.call('HGET', meta, 'seq') or '0', changed and 1 or 0}
for i, member in ipairs(members) do answer[i + 2] = redis.call('ZRANK', order, member) or -1 end
return answer
"""
)

_NOW = """
local function now()
  local t = redis.call('TIME')
  return string.format('%d', t[1] * 1000000 + t[2])
end
"""

TOP = (
    _NOW
    + """
if redis.call('HEXISTS', KEYS[3], 'watermark') == 0 then return {} end
local answer = {redis.call('HGET', KEYS[3], 'seq') or '0', redis.call('HGET', KEYS[3], 'changed_at') or '0', now()}
local rows = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES')
for i = 1, #rows, 2 do
  local id = string.sub(rows[i], 17)
  answer[#answer + 1] = id
  answer[#answer + 1] = rows[i + 1]
  answer[#answer + 1] = redis.call('HGET', KEYS[2], id)
end
return answer
"""
)

# ARGV: the pattern that finds the first part of a member in what is held of a player; then the ids.
STANDINGS = """
if redis.call('HEXISTS', KEYS[3], 'watermark') == 0 then return {} end
local answer = {1}
for i = 2, #ARGV do
  local held = redis.call('HGET', KEYS[2], ARGV[i])
  local rank = held and redis.call('ZRANK', KEYS[1], string.match(held, ARGV[1]) .. ARGV[i])
  answer[#answer + 1] = held or ''
  answer[#answer + 1] = rank or -1
end
return answer
"""

# ARGV: that pattern, the id, how many rows on either side.
AROUND = (
    _NOW
    + """
if redis.call('HEXISTS', KEYS[3], 'watermark') == 0 then return {} end
local held = redis.call('HGET', KEYS[2], ARGV[2])
local rank = held and redis.call('ZRANK', KEYS[1], string.match(held, ARGV[1]) .. ARGV[2])
local first = rank and math.max(0, rank - ARGV[3]) or 0
local answer = {now(), redis.call('ZCARD', KEYS[1]), held or '', rank or -1, first}
local rows = rank and redis.call('ZRANGE', KEYS[1], first, rank + ARGV[3], 'WITHSCORES') or {}
for i = 1, #rows, 2 do
  local id = string.sub(rows[i], 17)
  answer[#answer + 1] = id
  answer[#answer + 1] = rows[i + 1]
  answer[#answer + 1] = redis.call('HGET', KEYS[2], id)
end
return answer
"""
)

# KEYS[4…]: what takes the place of `order` and `players`; then the sorted sets of periods, each followed by what takes its
# place. ARGV: the watermark; when each of the periods' may go.
SWAP = (
    _NEXT_SEQ
    + """
redis.call('UNLINK', KEYS[1], KEYS[2])
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('RENAME', KEYS[4], KEYS[1]) end
if redis.call('EXISTS', KEYS[5]) == 1 then redis.call('RENAME', KEYS[5], KEYS[2]) end
for k = 6, #KEYS, 2 do
  redis.call('UNLINK', KEYS[k])
  if redis.call('EXISTS', KEYS[k + 1]) == 1 then
    redis.call('RENAME', KEYS[k + 1], KEYS[k])
    redis.call('EXPIREAT', KEYS[k], ARGV[k / 2 - 1])
  end
end
redis.call('HSET', KEYS[3], 'watermark', ARGV[1])
return next_seq(KEYS[3])
"""
)

ADVANCE = """
local held = redis.call('HGET', KEYS[3], 'watermark')
if held and tonumber(held) < tonumber(ARGV[1]) then redis.call('HSET', KEYS[3], 'watermark', ARGV[1]) end
"""
