"""Ordinary programs over steps, as people write them; each is run plainly and jitted, and compared."""

import dataclasses
import functools
import json
import random
import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from mahsm import xcs

# ruff: noqa: B009, B905, C400, F841, PIE804, UP031  programs as people write them

made: list[str] = []
"""The calls of steps, in the order in which they were made."""
_lock = threading.Lock()


def note(call: Any) -> None:
    with _lock:
        made.append(str(call))


@xcs.step
def ask(prompt: Any) -> str:
    note(prompt)
    if "boom" in str(prompt):
        raise ValueError(f"boom: {prompt}")
    return f"yes\n<{prompt}> 0.5"


@xcs.step
def score(prompt: Any) -> float:
    note(prompt)
    return float(len(str(prompt)))


@xcs.step
def maybe(prompt: Any) -> Any:
    note(prompt)
    return None if prompt == "no" else prompt


@xcs.step
def words(prompt: Any) -> list[str]:
    note(prompt)
    return str(prompt).split()


@xcs.step
def record(prompt: Any) -> dict[str, Any]:
    note(prompt)
    return {"text": str(prompt), "parts": [1, 2], "deep": {"n": len(str(prompt))}}


@dataclasses.dataclass
class Out:
    text: str
    n: float


@dataclasses.dataclass
class Upper:
    text: str

    def __post_init__(self) -> None:
        self.text = " ".join([self.text.upper(), "!"])


class Vector:
    def __init__(self, x: float) -> None:
        self.x = x

    def __add__(self, other: Any) -> "Vector":
        return Vector(self.x + (other.x if isinstance(other, Vector) else other))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Vector({self.x})"


class Agent:
    def __init__(self, name: str) -> None:
        self.name = name
        self.__log: list[Any] = []
        self.answer: Any = None

    def run(self, q: str) -> Any:
        self.answer = ask(f"{self.name} {q}")
        self.__log.append(self.answer)
        return [*self.__log, len(self.__log)]

    @property
    def upper(self) -> str:
        return "".join([self.answer]).upper()


programs: dict[str, Callable[[str], Any]] = {}


def program(function: Callable[[str], Any]) -> Callable[[str], Any]:
    programs[function.__name__] = function
    return function


@program
def fstring(q):
    return [ask(f"{i} {q}") for i in range(3)]


@program
def strip_each(q):
    return [ask(f"{i} {q}").strip() for i in range(3)]


@program
def refine(q):
    return [ask(f"again {ask(f'{i} {q}')}") for i in range(3)]


@program
def joined(q):
    return ask(" ".join([ask(f"{i} {q}") for i in range(3)]))


@program
def joined_generator(q):
    return ask(" ".join(ask(f"{i} {q}") for i in range(3)))


@program
def format_method(q):
    return ask("{} and {x}".format(ask(q), x=ask("b" + q)))


@program
def percent(q):
    return ask("%s! %s" % (ask(q), 3))


@program
def truncate(q):
    return ask(f"summarise: {ask(q)}"[:12])


@program
def strip_prompt(q):
    return ask(f"  {ask(q)}  ".strip())


@program
def length_of_prompt(q):
    p = f"{ask(q)}"
    return ask(p) if len(p) < 1000 and len(p) > 8 else "long"


@program
def branch(q):
    a = ask(q)
    return ask("good " + q) if "yes" in a else "no"


@program
def branch_equal(q):
    return "empty" if maybe(q) == "" else ask(q)


@program
def is_none(q):
    return "none" if maybe("no") is None else "some"


@program
def or_default(q):
    return maybe("no") or "default"


@program
def lines(q):
    return [ask(line) for line in ask(q).splitlines()]


@program
def words_of_argument(q):
    return [ask(w) for w in q.split()]


@program
def branch_on_argument(q):
    return ask(q) if len(q) > 3 else ask("short")


@program
def while_loop(q):
    n = 0
    while score(q) < 12 and n < 5:
        q = q + "!"
        n += 1
    return q, n


@program
def best_by_key(q):
    c = [ask(f"{i}{'x' * i} {q}") for i in range(3)]
    return max(c, key=lambda a: score(a))


@program
def best_by_index(q):
    c = [ask(f"{i}{'x' * i} {q}") for i in range(3)]
    s = [score(a) for a in c]
    return c[s.index(max(s))]


@program
def sorted_by_step(q):
    return sorted([f"{'x' * i}{q}" for i in (2, 1, 3)], key=score, reverse=True)


@program
def sort_in_place(q):
    c = [ask(f"{'x' * i}{q}") for i in (2, 1, 3)]
    c.sort(key=lambda a: score(a))
    return c


@program
def arithmetic(q):
    return (score(q) + score(q + "a")) / 2 * 3 - 1


@program
def format_spec(q):
    return f"{score(q):.2f} {score(q)!r:>8} {score(q)=}"


@program
def json_out(q):
    return json.dumps({"a": ask(q), "n": score(q)})


@program
def json_prompt(q):
    return ask(json.dumps([{"role": "user", "content": ask(q)}]))


@program
def regex(q):
    return re.findall(r"\d+\.\d", ask(q))


@program
def regex_callback(q):
    return re.sub(r"\w+", lambda m: ask(m.group()), q)


@program
def to_float(q):
    return float(ask(q).split()[-1])


@program
def try_fallback(q):
    try:
        return ask("boom " + q)
    except ValueError:
        return ask("fallback " + q)


@program
def try_variable(q):
    try:
        a = ask("boom " + q)
    except ValueError as error:
        a = f"fallback {error}"
    return a


@program
def try_in_loop(q):
    found = []
    for i in range(4):
        try:
            if i == 2:
                continue
            found.append(ask(f"{'boom' if i % 2 else i} {q}"))
        except ValueError:
            found.append(None)
        else:
            found.append("else")
        finally:
            found.append(i)
    return found


@program
def try_break(q):
    a = ""
    while True:
        try:
            a = ask(f"boom {q}") if a else ask(q)
            if a:
                break
        except ValueError:
            a = "x"
    return a


@program
def try_keeps_old_names(q):
    a, log, d = "none", [], {}
    try:
        a = ask(f"boom {q}")
        log.append("after")
        d["x"] = 1
        log += ["more"]
        b = ask(q)
    except ValueError:
        pass
    return a, log, d


@program
def try_keeps_what_is_deleted(q):
    d, items = {"a": 1, "b": 2}, [1, 2, 3, 4]
    try:
        del d["a"]
        ask(f"boom {q}")
        del d["b"], items[0]
        del items[1:3]
        del d["missing"]
    except (ValueError, KeyError):
        pass
    return d, items


@program
def try_keeps_old_names_in_loop(q):
    n = 0
    for i in range(4):
        try:
            n += 1
            a = ask(f"{'boom' if i % 2 else i} {q}")
            n += len(a)
            c = n
        except ValueError:
            n += 100
    return n


@program
def try_around_helpers(q):
    seen = set()

    def fill(x):
        seen.add(1)
        ask(f"boom {x}")
        seen.add(2)
        return seen

    try:
        return fill(q)
    except ValueError:
        return seen


@program
def nested_tries(q):
    log = []
    try:
        log.append(ask(q))
        try:
            x = ask(f"boom {q}")
            log.append(x)
        except KeyError:
            log.append("wrong")
        log.append("not here")
    except ValueError as e:
        log.append(str(e))
    return log


@program
def error(q):
    return ask("boom " + q)


@program
def unused_error(q):
    ask("boom " + q)
    return "x"


@program
def first_error_first(q):
    a = ask(f"boom 1 {q}")
    b = ask(f"boom 2 {q}")
    return f"{b} {a}"


@program
def own_error_after_step(q):
    ask(f"boom {q}")
    raise KeyError(q)


@program
def error_from_before_the_try(q):
    a = ask(f"boom {q}")
    try:
        return f"{a}" + str(len(a))
    except ValueError:
        return "caught"


@program
def history(q):
    h = [q]
    for _ in range(3):
        h.append(ask(h))
    return h


@program
def change_after(q):
    m = [q]
    a = ask(m)
    m.append("later")
    return a, m


@program
def change_result(q):
    r = words(q)
    first = r[0]
    r.sort()
    r.append(9)
    r[0] = "changed"
    return r, first, ask(r)


@program
def change_inside_result(q):
    r = record(q)
    p = r["parts"]
    shown = f"{r}"
    p.append(3)
    r["deep"]["n"] += 1
    return r, p, shown, r["parts"] is p


@program
def plus_equals(q):
    r = words(q)
    same = r
    r += [ask(q)]
    return same, r


@program
def plus_equals_text(q):
    s = ""
    for i in range(3):
        s += ask(f"{i}{q}")
    return s


@program
def dataclass_out(q):
    return Out(ask(q), score(q))


@program
def dataclass_with_post_init(q):
    return Upper(ask(q))


@program
def dict_key(q):
    return {ask(q): 1}


@program
def dict_of_answers(q):
    d = {}
    for i in range(3):
        d[ask(f"{i}{q}")] = score(f"{i}{q}")
    return d, list(d.values()), ", ".join(d)


@program
def dict_get(q):
    return {"yes": 1, "no": 2}.get(ask(q).splitlines()[0])


@program
def set_of_answers(q):
    found = {ask(q), ask(q), ask(q + "a")}
    return type(found) is set, sorted(found)


@program
def instance(q):
    return isinstance(ask(q), str)


@program
def type_name(q):
    return type(ask(q)).__name__


def helper(a):
    return ask(f"help {a}")


def deeper(a, *more, sep="-"):
    return sep.join([helper(a), *[helper(m) for m in more]])


@program
def helpers(q):
    return [helper(helper(f"{i}{q}")) for i in range(3)]


@program
def helpers_with_stars(q):
    return deeper(*[ask(q), "b"], **{"sep": ask("+")})


@program
def lambdas(q):
    f = lambda a: ask(f"l {a}")  # noqa: E731
    return [f(f(str(i) + q)) for i in range(3)]


@program
def side_effect(q):
    log = []
    for i in range(3):
        log.append(i)
        ask(f"{i}{q}")
    return log


@program
def seeded(q):
    r = random.Random(0)
    return [ask(f"{r.random()} {q}") for _ in range(3)]


@program
def sort(q):
    return sorted([ask(f"{3 - i}{q}") for i in range(3)])


@program
def unpack(q):
    a, b = ask(q).splitlines()
    return b, a


@program
def unpack_star(q):
    first, *rest = ask(q)
    return first, rest


@program
def star(q):
    return "".join(sorted({*ask(q)}))


@program
def double_star(q):
    return dict(**record(q), extra=ask(q))


@program
def chained(q):
    return 0 < score(q) < 100


@program
def slice_(q):
    return ask(ask(q)[:5]), ask(q)[::-1], "abcdefghijkl"[: int(score(q))]


@program
def numpy_mean(q):
    import numpy as np

    return float(np.mean([score(q), score(q + "a")])), float(np.array([1.0, 2.0])[0] + score(q))


@program
def generator(q):
    return list(ask(f"{i}{q}") for i in range(3))


def _parts(q):
    for i in range(3):
        yield ask(f"{i} {q}")


@program
def generator_function(q):
    return [*_parts(q)], sum(len(p) for p in _parts(q)), ",".join(_parts(q))


@program
def enumerate_zip(q):
    return [ask(f"{i}{a}") for i, a in enumerate([ask(q), ask(q)])], dict(zip("ab", [ask(q), ask(q)]))


@program
def mapped(q):
    return list(map(ask, q.split())), list(map(lambda a, b: f"{ask(a)}{b}", "ab", "cd"))


@program
def filtered(q):
    return list(filter(lambda a: score(a) > 2, ["a", "bcd", q]))


@program
def any_all(q):
    return any(score(x) > 1 for x in ["a", "bb", "ccc"]), all(score(x) > 1 for x in ["a", "bb"])


@program
def reduced(q):
    return functools.reduce(lambda a, b: ask(f"{a}+{b}"), q.split())


@program
def global_counter(q):
    return [ask(q) for _ in range(int(score(q)) % 4)]


@program
def walrus(q):
    if (a := ask(q)) and (n := len(a)) > 2:
        return a, n
    return None


@program
def match_value(q):
    match ask(q).splitlines():
        case ["yes", rest]:
            return rest
        case _:
            return "other"


@program
def match_record(q):
    match record(q):
        case {"text": str(text), "parts": [first, *_]}:
            return text, first
    return None


@program
def nested_functions(q):
    total = []

    def inner(i):
        nonlocal q
        q = ask(f"{i}{q}")
        total.append(q)
        return total

    for i in range(2):
        inner(i)
    return total, q


@program
def recursion(q, depth=2):
    if depth == 0:
        return q
    return [recursion(ask(f"{q} L"), depth - 1), recursion(ask(f"{q} R"), depth - 1)]


@program
def methods(q):
    agent = Agent("a")
    found = agent.run(q), agent.run(q + "2")
    return found, agent.answer, agent.upper


@program
def partial_(q):
    return functools.partial(deeper, q, sep="/")(ask(q)), functools.partial(ask, q)()


@program
def own_operators(q):
    v = Vector(1.0)
    w = v + score(q)
    w += Vector(score(q))
    return w, w == Vector(2.0)


@program
def assertion(q):
    assert ask(q), "no answer"
    assert score(q) < 0, f"score {score(q)}"


@program
def raise_text(q):
    raise RuntimeError(f"no {ask(q)}")


@program
def defaults(q):
    counts = defaultdict(list)
    for i in range(4):
        counts[i % 2].append(ask(f"{i}{q}"))
    last = deque(maxlen=2)
    for i in range(3):
        last.append(ask(f"{i}{q}"))
    return dict(counts), list(last)


@program
def getattr_(q):
    return getattr(Out(ask(q), 1), "text"), hasattr(ask(q), "upper"), ask(q).upper().lower().title()


@program
def conditional_expression(q):
    return ask("a") if maybe(q) else ask("b"), not maybe("no"), maybe("no") and ask(q)


@program
def comprehension_filter(q):
    return [a for a in [ask(f"{i} {q}") for i in range(4)] if "1" in a or "2" in a]


@program
def two_level_dict(q):
    out = {"answers": {}}
    for i in range(2):
        out["answers"][i] = {"text": ask(f"{i}{q}"), "n": len(ask(q))}
    return out


@program
def class_inside(q):
    class Local:
        def __init__(self, q):
            super().__init__()
            self.q = q

        def go(self):
            return ask(self.q) + self.q

    return Local(ask(q)).go()


@program
def try_inside_helper(q):
    def safe(x):
        try:
            return ask(x)
        except ValueError:
            return "safe"

    return [safe(f"boom {q}"), safe(q)]


@program
def with_block(q):
    import contextlib

    with contextlib.suppress(ValueError):
        ask(f"boom {q}")
    with contextlib.nullcontext(ask(q)) as a:
        return a + "!"


@program
def suppress_keeps_old_names(q):
    import contextlib

    a, log = "none", []
    with contextlib.suppress(ValueError):
        a = ask(f"boom {q}")
        log.append("after")
    return a, log


@program
def finally_order(q):
    log = []
    try:
        log.append(ask(q))
        raise KeyError("x")
    except KeyError:
        log.append("caught")
    finally:
        log.append(ask("finally"))
    return log


@program
def global_store(q):
    global last_answer
    last_answer = ask(q)
    STORE[q] = ask(q + "g")
    STORE.setdefault("all", []).append(ask(q + "h"))
    return type(last_answer) is str


last_answer: Any = None
STORE: dict[str, Any] = {}
