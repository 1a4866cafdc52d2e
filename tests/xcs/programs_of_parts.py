"""More programs as people write them: generators with blocks, changes of items, dataclasses."""

import asyncio
import bisect
import contextlib
import dataclasses
import functools
import heapq
from collections import Counter, defaultdict
from typing import Any

from mahsm import xcs
from tests.xcs.async_programs import ask as async_ask
from tests.xcs.programs import ask, program, score

# ruff: noqa: TID251  programs as people write them


def _with_a_block(q):
    with contextlib.nullcontext():
        for i in range(9):
            yield ask(f"{i}{q}")


@program
def generator_that_is_left(q):
    found = []
    for a in _with_a_block(q):
        found.append(ask(f"better {a}"))
        if len(found) == 3:
            break
    parts = _with_a_block(q)
    found.append(ask(next(parts)))
    parts.close()
    return found


def _with_a_try(q):
    for i in range(3):
        try:
            yield ask(f"{'boom' if i == 1 else ''}{i}{q}")
        except ValueError:
            yield "fallback"
    try:
        got = yield from [ask(q), ask(f"{q}2")]
    except ValueError:
        yield "not here"
    return got


@program
def generator_with_a_try(q):
    found = []
    for i, a in enumerate(_with_a_try(q)):
        try:
            found.append(ask(f"{'boom' if i == 3 else ''}{a}"))
        except ValueError:
            found.append("caught")
    return found


@program
def generator_that_gets_values(q):
    log = []

    def answers():
        got = yield "first"
        try:
            while got:
                try:
                    got = yield ask(got)
                except KeyError:
                    log.append("key")
                    got = yield ask("after")
        except ValueError as error:
            log.append(str(error))
            yield "last"

    def around():
        try:
            return (yield from answers())
        finally:
            log.append(ask("end"))

    a = around()
    return [next(a), a.send(q), a.throw(KeyError("k")), a.send(f"{q}2"), a.send(f"boom {q}"), *a], log


@program
def delegation_is_pythons(q):
    log = []

    def inner():
        try:
            yield ask(q)
            yield ask(f"{q}2")
        except KeyError:
            yield "key"
        finally:
            log.append("closed")
        return ask("result")

    def outer(values):
        with contextlib.nullcontext():
            got = yield from values
        yield f"got {got}"

    closed = outer(inner())
    log.append(next(closed))
    closed.close()
    thrown = outer(inner())
    log += [next(thrown), thrown.throw(KeyError()), next(thrown)]
    plain = outer([ask("a")])
    log.append(next(plain))
    try:
        plain.throw(KeyError("plain"))
    except KeyError as error:
        log.append(str(error))
    started = outer(iter([ask("b")]))
    log.append(next(started))
    started.close()
    return log, list(outer(inner()))


@program
def try_undoes_items(q):
    counts, items, nested, seen = {"n": 0}, [1, 2], {"deep": {"n": 1}}, Counter("a")
    heap = [3, 5]
    try:
        counts["n"] += 1
        ask(f"boom {q}")
        counts["n"] += 1
        items[0] += 1
        items[0], items[1] = items[1], items[0]
        counts["a"] = counts["b"] = 1
        nested["deep"]["n"] -= 1
        seen["a"] += 1
        seen.update("b")
        heapq.heappush(heap, 1)
        bisect.insort(items, 0)
        counts["missing"] += 1
    except (ValueError, KeyError):
        pass
    return counts, items, nested, dict(seen), heap


@program
def targets(q):
    items, d, i = [0, 0, 0], {}, 0
    i, items[i] = 1, ask(q)
    items[2], i = ask(f"{q}2"), 2
    d["a"] = x = d["b"] = ask("b")
    (d["c"], *d["d"]), [y, items[0]] = ask("c").split(), (ask("y"), 1)
    items[1:] += [ask("e")]
    d["a"] += ask("f")
    d["g"], d["h"] = d["a"], d.get("g")
    return items, d, i, x, y


@program
def changed_items(q):
    totals = defaultdict(float)
    for word in f"{q} {q} a".split():
        totals[word] += score(word)
    texts = {"log": "", "parts": [ask(q)]}
    for i in range(2):
        texts["log"] += ask(f"{i}{q}")
        texts["parts"] += [ask(f"p{i}")]
    return dict(totals), texts


@dataclasses.dataclass
class Message:
    role: str
    text: str

    @property
    def line(self) -> str:
        return ": ".join([self.role, self.text])

    @functools.cached_property
    def loud(self) -> str:
        return "".join([self.text]).upper()


@dataclasses.dataclass(eq=False)
class Note:
    text: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Note) and "".join([self.text]) == "".join([other.text])

    def __hash__(self) -> int:
        return hash("".join([self.text]))

    def __add__(self, other: "Note") -> "Note":
        return Note("".join([self.text, other.text]))

    def __iter__(self) -> Any:
        return iter("".join([self.text]))

    def __str__(self) -> str:
        return "".join(["note ", self.text])


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Point:
    x: float
    label: str = "a"

    def __str__(self) -> str:
        return " ".join([self.label, "point"])


@program
def dataclasses_with_properties(q):
    message = Message("user", ask(q))
    return message.line, message.loud, dataclasses.replace(message, role=ask("r")).line


@program
def dataclasses_with_special_methods(q):
    a, b = Note(ask(q)), Note(ask("b"))
    return a == b, len({a, b}), str(a + b), list(a), f"{a}"


@program
def frozen_dataclasses(q):
    a, b = Point(score(q)), Point(score("b"), ask("t"))
    return a < b, sorted([b, a]), {a: 1}, dataclasses.replace(a, label=ask("z")), max(a, b), str(b)


@xcs.step
def pick(items):
    return next(iter(items))


@program
def nothing_left(q):
    first = pick([ask(q)])
    try:
        return next(iter([])), first
    except StopIteration:
        return pick(q.split()[1:])


class Section:
    def __init__(self, text: str) -> None:
        self.__text = text

    def write(self) -> Any:
        return ask(self.__text)

    @classmethod
    def of(cls, q: str) -> "Section":
        return Section(ask(q))


class Chapter(Section):
    def write(self) -> Any:
        return [super().write(), "-".join([Section.of("x").write(), ask("y")])]


@program
def methods_that_name_their_class(q):
    return Chapter(q).write(), Section.of(q).write()


@program
def event_loop_of_its_own(q):
    async def safe(x):
        try:
            return await async_ask(x)
        except ValueError as error:
            return str(error)

    async def several():
        return await asyncio.gather(async_ask(q), safe(f"boom {q}"), safe(ask(q)))

    return asyncio.run(several()), asyncio.run(async_ask("alone"))
