"""The script that Redis runs for budgets that processes share."""

from mahsm._redis import Script

EXCHANGE = Script("""
-- KEYS: account; what this process was told last. ARGV: the account's generation as this process knows it, a
-- name for a new one, and its version; what this process knows to be spent (3); what it has spent since (3);
-- bounds (3), '' for none; the number of attempts that want to begin; 1 if each of them is a call;
-- milliseconds after which the account is forgotten, and what this process was told; the question's number.
-- Returns the generation, the version, what is spent (3), and how many attempts may begin.
local s = redis.call('HMGET', KEYS[1], 'g', 'usd', 'tokens', 'calls', 'n')
local generation, version, known, spent = s[1] or ARGV[2], tonumber(s[5] or 0), tonumber(ARGV[3]), {}
-- The answer to this question was lost, and it is asked again: it takes effect once.
local told = redis.call('HMGET', KEYS[2], 'number', 'may')
local is_told = told[1] and tonumber(told[1]) >= tonumber(ARGV[17])
-- Redis has lost the account, or the last moments of it: it goes on from what this process knows.
local is_lost = ARGV[1] ~= '' and (ARGV[1] ~= generation or known > version)
for i = 1, 3 do
  spent[i] = tonumber(s[i + 1] or 0)
  if is_lost then spent[i] = math.max(spent[i], tonumber(ARGV[3 + i])) end
  if not is_told then spent[i] = math.max(0, spent[i] + tonumber(ARGV[6 + i])) end
end
local may = tonumber(ARGV[13])
for i = 1, 3 do
  local bound = tonumber(ARGV[9 + i])
  if bound and spent[i] >= bound then may = 0 end
  if bound and i == 3 and ARGV[14] == '1' then may = math.min(may, math.ceil(bound - spent[3])) end
end
may = math.max(0, may)
if is_told then
  may = tonumber(told[2])
elseif ARGV[14] == '1' then
  spent[3] = spent[3] + may
end
version = math.max(version, known) + 1
for i = 1, 3 do spent[i] = string.format('%.17g', spent[i]) end
redis.call('HSET', KEYS[1], 'g', generation, 'usd', spent[1], 'tokens', spent[2], 'calls', spent[3],
           'n', string.format('%d', version))
redis.call('PEXPIRE', KEYS[1], ARGV[15])
if not is_told then
  redis.call('HSET', KEYS[2], 'number', ARGV[17], 'may', may)
  redis.call('PEXPIRE', KEYS[2], ARGV[16])
end
return {generation, string.format('%d', version), spent[1], spent[2], spent[3], tostring(may)}
""")
