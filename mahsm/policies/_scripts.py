"""The script that Redis runs for budgets that processes share."""

from mahsm._redis import Script

EXCHANGE = Script("""
-- KEYS: account. ARGV: its generation as this process knows it, and a name for a new one; what this process
-- knows to be spent (3); what it has spent since (3); bounds (3), '' for none; the number of attempts that
-- want to begin; 1 if each of them is a call; milliseconds after which the account is forgotten.
-- Returns the generation, what is spent (3), and how many attempts may begin.
local s = redis.call('HMGET', KEYS[1], 'g', 'usd', 'tokens', 'calls')
local generation, spent = s[1] or ARGV[2], {}
local is_lost = ARGV[1] ~= '' and ARGV[1] ~= generation
for i = 1, 3 do
  spent[i] = tonumber(s[i + 1] or 0)
  -- Redis has lost the account: it goes on from what this process knows.
  if is_lost then spent[i] = math.max(spent[i], tonumber(ARGV[2 + i])) end
  spent[i] = math.max(0, spent[i] + tonumber(ARGV[5 + i]))
end
local may = tonumber(ARGV[12])
for i = 1, 3 do
  local bound = tonumber(ARGV[8 + i])
  if bound and spent[i] >= bound then may = 0 end
  if bound and i == 3 and ARGV[13] == '1' then may = math.min(may, math.ceil(bound - spent[3])) end
end
may = math.max(0, may)
if ARGV[13] == '1' then spent[3] = spent[3] + may end
for i = 1, 3 do spent[i] = string.format('%.17g', spent[i]) end
redis.call('HSET', KEYS[1], 'g', generation, 'usd', spent[1], 'tokens', spent[2], 'calls', spent[3])
redis.call('PEXPIRE', KEYS[1], ARGV[14])
return {generation, spent[1], spent[2], spent[3], tostring(may)}
""")
