"""Async programs over async and blocking steps."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from mahsm import xcs
from tests.xcs.programs import note
from tests.xcs.programs import score as blocking_score

# ruff: noqa: TID251  programs as people write them


@xcs.step
async def ask(prompt: Any) -> str:
    note(prompt)
    await asyncio.sleep(0)
    if "boom" in str(prompt):
        raise ValueError(f"boom: {prompt}")
    return f"yes\n<{prompt}> 0.5"


@xcs.step
async def score(prompt: Any) -> float:
    note(prompt)
    return float(len(str(prompt)))


programs: dict[str, Callable[[str], Awaitable[Any]]] = {}


def program(function: Callable[[str], Awaitable[Any]]) -> Callable[[str], Awaitable[Any]]:
    programs[function.__name__] = function
    return function


@program
async def several(q):
    return [await ask(f"{i} {q}") for i in range(3)]


@program
async def chain(q):
    a = await ask(q)
    b = await ask(f"more {a.strip()}")
    return a + b


@program
async def branch(q):
    if "yes" in await ask(q):
        return await ask("good " + q)
    return "no"


@program
async def plain_awaits(q):
    a = await ask(q)
    await asyncio.sleep(0)
    return f"{a} {len(a)}"


@program
async def gathered(q):
    return await asyncio.gather(*[ask(f"{i} {q}") for i in range(3)], helper(q))


@program
async def tasks(q):
    task = asyncio.create_task(ask(q))
    other = asyncio.ensure_future(helper(q))
    return [await task, await other, await asyncio.wait_for(ask("late"), 30)]


@program
async def task_group(q):
    async with asyncio.TaskGroup() as group:
        found = [group.create_task(helper(f"{i} {q}")) for i in range(3)]
    return [one.result() for one in found]


async def helper(q):
    a = await ask(f"help {q}")
    if a.startswith("yes"):
        a += await ask("more")
    return ",".join([a, "end"])


@program
async def helpers(q):
    return [await helper(f"{i}{await helper(q)}") for i in range(2)]


def joined(parts):
    return "-".join(parts) + str(max(len(part) for part in parts))


@program
async def sync_helper(q):
    return joined([await ask(q), await ask("b")])


@program
async def blocking_steps(q):
    return blocking_score(q) + blocking_score(await ask(q))


@program
async def later_awaited(q):
    calls = [ask(f"{i} {q}") for i in range(3)]
    return [await call for call in calls]


@program
async def try_fallback(q):
    try:
        return await ask(f"boom {q}")
    except ValueError:
        return await ask(f"fallback {q}")


@program
async def try_log(q):
    log = []
    for i in range(3):
        try:
            log.append(await ask(f"{'boom' if i == 1 else i} {q}"))
        except ValueError as error:
            log.append(str(error))
    return log


@program
async def unused_error(q):
    await ask(f"boom {q}")
    return 1


@program
async def timeout(q):
    async with asyncio.timeout(30):
        return (await ask(q)).upper()


@program
async def async_for(q):
    async def numbers():
        for i in range(3):
            yield await ask(f"{i} {q}")

    return [a async for a in numbers() if len(a) > 1]


@program
async def best(q):
    c = [await ask(f"{'x' * i} {q}") for i in range(3)]
    s = [await score(a) for a in c]
    return c[s.index(max(s))]


@program
async def lock(q):
    lock, log = asyncio.Lock(), []

    async def add(x):
        async with lock:
            log.append(await ask(x))
            await asyncio.sleep(0)
            log.append(f"{x} done {len(log[-1])}")

    await asyncio.gather(add(q), add("b"))
    return sorted(log)


@program
async def current_task(q):
    before = asyncio.current_task()
    a = await ask(q)
    if a:
        return before is asyncio.current_task() and asyncio.get_running_loop().is_running()
    return None


async def safe(x):
    try:
        return await ask(x)
    except ValueError as error:
        return str(error)


@program
async def helpers_that_catch(q):
    return await asyncio.gather(*[safe(f"{'boom' if i % 2 else i} {q} {i}") for i in range(6)])


@program
async def helpers_that_catch_in_a_group(q):
    async with asyncio.TaskGroup() as group:
        found = [group.create_task(safe(f"{'boom' if i % 2 else i} {q} {i}")) for i in range(6)]
    return [one.result() for one in found]


@program
async def errors_are_results(q):
    async def unused(x):
        await ask(x)
        return "not here"

    found = await asyncio.gather(ask(f"boom {q}"), unused(f"boom 2 {q}"), ask(q), return_exceptions=True)
    return [str(one) for one in found]


@program
async def errors_of_a_group(q):
    found = []
    try:
        async with asyncio.TaskGroup() as group:
            for i in range(3):
                group.create_task(safe(f"{i} {q}") if i else ask(f"boom {q}"))
    except* ValueError as errors:
        found = [str(error) for error in errors.exceptions]
    return found


@program
async def semaphore(q):
    turns, log = asyncio.Semaphore(2), []

    async def one(i):
        async with turns:
            try:
                log.append(i)
                answer = await ask(f"{'boom' if i % 2 else i} {q} {i}")
                log.append(answer)
            except ValueError:
                return None
            return answer

    return await asyncio.gather(*[one(i) for i in range(5)]), sorted(map(str, log))


@program
async def given_up(q):
    async def never():
        answer = await ask(q)
        await asyncio.Event().wait()
        return answer

    try:
        return await asyncio.wait_for(never(), 0.01)
    except TimeoutError:
        return await ask(f"late {q}")


@program
async def workers(q):
    queue, found = asyncio.Queue(), []

    async def work():
        while (item := await queue.get()) is not None:
            try:
                found.append(await ask(item))
            except ValueError as error:
                found.append(str(error))
            finally:
                queue.task_done()

    team = [asyncio.create_task(work()) for _ in range(2)]
    for i in range(5):
        await queue.put(f"{'boom' if i == 3 else i} {q}")
    for _ in team:
        await queue.put(None)
    await asyncio.gather(*team)
    return sorted(found)


@program
async def thread(q):
    def blocking():
        try:
            return str(blocking_score(q)) + "!"
        finally:
            blocking_score("end")

    return await asyncio.gather(asyncio.to_thread(blocking), safe(q))


@program
async def async_generator_with_a_try(q):
    async def numbers():
        try:
            for i in range(3):
                yield await ask(f"{'boom' if i == 2 else i} {q}")
        except ValueError as error:
            yield str(error)

    return [a async for a in numbers()]


@program
async def error_of_the_reader_of_an_async_generator(q):
    async def numbers():
        try:
            for i in range(3):
                yield await ask(f"{i} {q}")
        except ValueError:
            yield "not here"

    found = []
    async for a in numbers():
        try:
            found.append(await ask(f"{'boom' if len(found) == 1 else 'fine'} {a}"))
        except ValueError:
            found.append("caught")
    return found
