"""The guard inside Redis: one script, so that no other writer comes between the comparison and the write."""

from hashlib import sha1

ROWS_PER_SCRIPT = 1_000
"""Lua's `unpack` puts at most about 8,000 values on its stack, two for each row; other clients wait meanwhile."""

GUARD = b"""
-- KEYS: what must hold, then a key per row. ARGV: what it must hold, milliseconds to keep a row behind its event time
-- (0: for ever), then a blob per row. Answers how many rows were taken; -1 when the first key holds something else.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local keep = tonumber(ARGV[2])
-- The stamp is 16 bytes behind the checksum. A double holds 48 bits exactly, not 64.
local function newer(blob, held)
  local a, b, c = struct.unpack('>I6I6I4', blob, 5)
  local d, e, f = struct.unpack('>I6I6I4', held, 5)
  if a ~= d then return a > d end
  if b ~= e then return b > e end
  return c > f
end
local held = redis.call('MGET', unpack(KEYS, 2))
local taken = {}
for n = 1, #held do
  local blob = ARGV[n + 2]
  if not held[n] or #held[n] < 20 or newer(blob, held[n]) then
    taken[#taken + 1] = KEYS[n + 1]
    taken[#taken + 1] = blob
  end
end
if #taken > 0 then redis.call('MSET', unpack(taken)) end
if keep > 0 then
  for n = 1, #taken, 2 do
    local high, low = struct.unpack('>I4I4', taken[n + 1], 5)
    local event = (high - 2147483648) * 4294967.296 + low / 1000
    redis.call('PEXPIREAT', taken[n], string.format('%.0f', event + keep))
  end
end
return #taken / 2
"""
GUARD_DIGEST = sha1(GUARD, usedforsecurity=False).hexdigest()

EXCHANGE = b"""
-- KEYS: one key. ARGV: what it must hold ('' for nothing at all), what it is to hold. Answers whether it does now.
local held = redis.call('GET', KEYS[1])
if (held or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
EXCHANGE_DIGEST = sha1(EXCHANGE, usedforsecurity=False).hexdigest()

SCRIPTS = {GUARD_DIGEST: GUARD, EXCHANGE_DIGEST: EXCHANGE}
