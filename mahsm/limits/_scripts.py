"""The scripts that Redis runs for quotas that processes share."""

from mahsm._redis import Script

# The quota is a virtual clock, `v`: the moment at which the last one admitted begins, perhaps some
# milliseconds from now. `r` and `t` are the requests and tokens that were left then. The next one begins at
# the first moment from `max(now, v, p)` on at which both have been refilled far enough; `p` is the end of a
# pause. So what is admitted is that of one line, whoever asks: never more than `burst + rate * t` in any `t`
# seconds.
#
# Only starts within the horizon are given. So a process that is killed takes no more with it than what it
# held for that time, and a pause reaches everyone within it.
#
# First come, first served, across processes: each tells when the first in its line came (`heads`), and nobody
# gets a place who came more than `tolerance` after the first of another process. A process whose claim has
# ended, since it did not come back when it had said, holds up nobody.
#
# All times are those of Redis; what goes back to a process are seconds from now.

_LEVELS = """
local state = KEYS[1]
local tm = redis.call('TIME')
local now = tonumber(tm[1]) + tonumber(tm[2]) / 1e6
local definition = ARGV[1]
local rate, burst, trate, tburst = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local debt, ttl = tonumber(ARGV[6]), tonumber(ARGV[7])
local s = redis.call('HMGET', state, 'd', 'r', 't', 'v', 'p', 'n')
if not s[1] and ARGV[#ARGV] ~= '' then
  -- Redis has lost it: it goes on from what this process knows.
  s = {definition}
  for known in string.gmatch(ARGV[#ARGV], '%S+') do s[#s + 1] = known end
end
local r, t = tonumber(s[2] or burst), tonumber(s[3] or tburst)
local v, p = tonumber(s[4] or now), tonumber(s[5] or 0)
-- Nothing begins later than some milliseconds from now, unless the clock was set back: what is left of a
-- pause stays the same then, and the times of those that wait mean nothing any more.
local saved = tonumber(s[6] or 0)
if v > now + 1 or saved > now + 1 then
  v = now
  if saved > now then p = p - (saved - now) end
  redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
end

local function give(requests, tokens)
  r = math.min(burst, r + requests)
  t = math.max(math.min(tburst, t + tokens), -debt * trate)
end

local function save()
  local saved = string.format('%.9f %.9f %.6f %.6f %.6f', r, t, v, p, now)
  local sr, st, sv, sp, sn = string.match(saved, '(%S+) (%S+) (%S+) (%S+) (%S+)')
  redis.call('HSET', state, 'd', definition, 'r', sr, 't', st, 'v', sv, 'p', sp, 'n', sn)
  redis.call('PEXPIRE', state, ttl + math.ceil(1000 * math.max(0, p - now, v - now)))
  return saved
end
"""
"""Reads the levels. KEYS: state, heads, claims, sharers. ARGV: definition; rate, burst of requests, then of
tokens (rate 0: no bound); the most seconds of debt; milliseconds after which it is forgotten; and as the last
one, the levels that this process knows, or ''."""

TAKE = Script(
    _LEVELS
    + """
-- KEYS: as above. ARGV from 8: requests and tokens given back; who asks; horizon and tolerance in seconds; 1
-- if it may not wait; and for each in line its tokens and the seconds since it came, in one string.
-- Returns the definition, the levels, the sharers, the seconds after which to ask again, those of a pause,
-- and those until each begins, in one string: a hundred of them would take longer to read than to compute.
local heads, claims, sharers = KEYS[2], KEYS[3], KEYS[4]
local me, horizon, tolerance, at_once = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13] == '1'

redis.call('ZREMRANGEBYSCORE', sharers, '-inf', now - 15)
redis.call('ZADD', sharers, string.format('%.6f', now), me)
local others = redis.call('ZCARD', sharers) - 1
if s[1] and s[1] ~= definition and others > 0 then
  redis.call('ZREM', sharers, me)
  return {s[1], '', '0', '0', '0', ''}
end
give(tonumber(ARGV[8]), tonumber(ARGV[9]))

for _, gone in ipairs(redis.call('ZRANGEBYSCORE', claims, '-inf', now)) do
  redis.call('ZREM', claims, gone)
  redis.call('ZREM', heads, gone)
end
local latest = math.huge
local early = redis.call('ZRANGE', heads, 0, 1, 'WITHSCORES')
for i = 1, #early, 2 do
  if early[i] ~= me then latest = tonumber(early[i + 1]) + tolerance; break end
end

local starts, nap, head = {}, 0, nil
for tokens, age in string.gmatch(ARGV[14], '(%S+) (%S+)') do
  tokens = tonumber(tokens)
  local came = now - tonumber(age)
  local from = math.max(now, v, p)
  local r1 = math.min(burst, r + (from - v) * rate)
  local t1 = math.min(tburst, t + (from - v) * trate)
  local wait = 0
  if rate > 0 and r1 < 1 then wait = (1 - r1) / rate end
  local want = math.min(tokens, tburst)
  if trate > 0 and t1 < want then wait = math.max(wait, (want - t1) / trate) end
  local start = from + wait
  local is_late = start > now + (at_once and 0 or horizon)
  if is_late or came > latest then
    head = came
    nap = is_late and start - now - horizon / 2 or horizon / 2
    -- Others wait as long for a process that is killed, but during a pause, when they wait anyway.
    nap = math.max(0.002, math.min(nap, math.max(0.1, math.min(1, nap / 10), p - now - horizon / 2)))
    break
  end
  r = math.min(burst, r1 + wait * rate) - 1
  t = math.max(math.min(tburst, t1 + wait * trate) - tokens, -debt * trate)
  v = start
  starts[#starts + 1] = string.format('%.6f', start - now)
end
if rate == 0 then r = burst end
if trate == 0 then t = tburst end
local levels = save()

if head and not at_once then
  redis.call('ZADD', heads, string.format('%.6f', head), me)
  redis.call('ZADD', claims, string.format('%.6f', now + nap + horizon), me)
else
  redis.call('ZREM', heads, me)
  redis.call('ZREM', claims, me)
end
for i = 2, 4 do redis.call('PEXPIRE', KEYS[i], ttl) end
return {definition, levels, tostring(others + 1), string.format('%.6f', nap),
        string.format('%.6f', math.max(0, p - now)), table.concat(starts, ' ')}
"""
)

GIVE = Script(
    _LEVELS
    + """
-- KEYS: as above. ARGV from 8: requests and tokens given back; seconds of a pause.
local pause = tonumber(ARGV[10])
if s[1] and s[1] ~= definition then return '0' end
if s[1] or pause > 0 then
  give(tonumber(ARGV[8]), tonumber(ARGV[9]))
  if pause > 0 then p = math.max(p, now + pause) end
  save()
end
return '1'
"""
)
