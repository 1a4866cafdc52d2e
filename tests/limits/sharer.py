"""A process that shares limits: `sharer.py URL PROVIDER CALLS TASKS ARGUMENTS`.

It says when it is ready, waits for a line, and then writes one for each question that Redis answers: the
clock of Redis before and after it, the seconds until each call begins that was let through, and those after
which it asks again.
"""

import asyncio
import json
import sys

import redis

from mahsm import RateLimit, limits
from mahsm.limits._shared_quota import Places, SharedQuota

url, provider, calls, tasks, arguments = sys.argv[1:]
clock = redis.Redis.from_url(url)
take = SharedQuota.take


def now() -> float:
    seconds, micros = clock.time()
    return seconds + micros / 1e6


async def recorded(self: SharedQuota, *args: object, **options: object) -> Places:
    before = now()
    places = await take(self, *args, **options)  # type: ignore[arg-type]
    print(json.dumps([before, now(), places.delays, places.nap]), flush=True)
    return places


async def main() -> None:
    left = iter(range(int(calls)))

    async def one() -> None:
        for _ in left:
            async with limits.admit(provider, tokens=10):
                limits.report(input_tokens=8)

    async with asyncio.TaskGroup() as group:
        for _ in range(int(tasks)):
            group.create_task(one())


limits.share(url)
limits.admit(RateLimit(provider, **json.loads(arguments)))
SharedQuota.take = recorded  # type: ignore[method-assign]
print("ready", flush=True)
if sys.stdin.readline():
    asyncio.run(main())
    print(json.dumps(limits.stats()[provider].admitted), flush=True)
