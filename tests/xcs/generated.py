"""Programs that are made up: random statements over strings, numbers, lists, dicts and steps."""

import linecache
import random
from collections.abc import Callable
from types import FunctionType
from typing import Any

from tests.xcs import programs

HEADER = """
import contextlib
import json
from tests.xcs.programs import Out, ask, maybe, record, score, words


class Error(Exception):
    pass


def helper(s, depth=1):
    a = ask(f"h {s}")
    return helper(a[:6], depth - 1) if depth and len(a) % 2 else a


def fill(l, s):
    l.append(s)
    l.append(ask(s))
    l.insert(0, maybe(s))
    return l


def safe(s):
    try:
        return ask(s)
    except ValueError as error:
        return str(error)

"""


class Writer:
    """Writes one program.

    Args:
        seed: Decides everything.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lines: list[str] = []
        self._left = self._random.randint(4, 28)
        self._names = 0

    def source(self) -> str:
        """Return the source of the module; the function is `program(q)`."""
        self._write(0, "def program(q):")
        self._write(1, 's, t, n, l, d = q, "t", 1, ["x"], {"k": "v"}')
        while self._left > 0:
            self._statement(1, 0)
        self._write(1, "return s, t, n, l, d")
        return HEADER + "\n".join(self._lines) + "\n"

    def _write(self, depth: int, line: str) -> None:
        self._lines.append("    " * depth + line)

    def _pick(self, *options: str) -> str:
        return self._random.choice(options)

    def _text(self, deep: int = 2) -> str:
        if deep == 0:
            return self._pick("s", "t", "q", '"c"')
        sub = [self._text(deep - 1) for _ in range(2)]
        return self._pick(
            "s",
            "t",
            f'"a {{}} {{}}".format({sub[0]}, n)',
            'f"a {s[:9]} {n} {t!r:>5}"',
            f"({sub[0]} + {sub[1]})",
            f"{sub[0]}[:5]",
            f"{sub[0]}.upper().strip()",
            f"ask({sub[0]})",
            f"helper({sub[0]})",
            f"safe({sub[0]})",
            f"str(maybe({sub[0]}))",
            f"({sub[0]} if {self._condition(0)} else {sub[1]})",
            f'" ".join([{sub[0]}, {sub[1]}])',
            '",".join(str(x) for x in l)',
            "json.dumps(d)",
            f"({self._pick('s', 't')} or {sub[0]})",
            f"Out({sub[0]}, n).text",
            f"(lambda x: ask(x + {sub[1]}))({sub[0]})",
            f"max([{sub[0]}, {sub[1]}], key=score)",
            "'%s-%s' % (s, n)",
        )

    def _number(self) -> str:
        return self._pick(
            "n",
            "n + 1",
            f"score({self._text(1)})",
            f"len({self._text(1)})",
            "len(l)",
            "n * 2 % 7",
            f"sum(score(x) for x in [{self._text(1)}, {self._text(0)}])",
        )

    def _condition(self, deep: int = 1) -> str:
        return self._pick(
            f"{self._text(deep)} == s",
            "n > 3",
            f'"a" in {self._text(deep)}',
            f"score({self._text(0)}) > 6",
            f"maybe({self._text(0)}) is None",
            f"isinstance({self._text(0)}, str)",
            "not l",
            f"any(score(x) > 4 for x in [{self._text(0)}, t])",
        )

    def _block(self, depth: int, level: int) -> None:
        for _ in range(self._random.randint(1, 3)):
            self._statement(depth, level)

    def _statement(self, depth: int, level: int) -> None:
        self._left -= 1
        kinds = [self._assign] * 5 + [self._change] * 4
        if level < 3:
            kinds += [self._if, self._for, self._try, self._try, self._with, self._def]
        if level and self._random.random() < 0.15:
            kinds = [self._fail]
        self._random.choice(kinds)(depth, level)

    def _assign(self, depth: int, level: int) -> None:
        self._write(
            depth,
            self._pick(
                f"s = {self._text()}",
                f"t = {self._text()}",
                f"n = {self._number()}",
                f"s, t = t, {self._text(1)}",
                f"l = words({self._text(1)})",
                f"d = record({self._text(1)})",
                f"l = [ask(x) for x in {self._text(0)}.split()[:3]]",
                f"l = [*l[:4], {self._text(1)}]",
                f"d = {{'a': {self._text(1)}, **d}}",
                f"s += {self._text(1)}",
                f"n += {self._number()}",
                "l = sorted(map(str, l), key=score)[:5]",
                f"(t := {self._text(1)})",
            ),
        )

    def _change(self, depth: int, level: int) -> None:
        self._write(
            depth,
            self._pick(
                f"l.append({self._text(1)})",
                f"l += [{self._text(1)}]",
                "l = l[:6]",
                f"l.extend([{self._text(0)}, ask({self._text(0)})])",
                "l.reverse()",
                f"d[{self._text(1)}] = {self._text(1)}",
                f"d['n'] = {self._number()}",
                f"d.setdefault('log', []).append({self._text(1)})",
                f"fill(l, {self._text(0)})",
                f"ask({self._text(1)})",
                "d = dict(list(d.items())[:5])",
                "t = str(d.get('k')) + str(d.get('text'))",
                f"l[0:1] = [{self._text(1)}]",
            ),
        )

    def _if(self, depth: int, level: int) -> None:
        self._write(depth, f"if {self._condition()}:")
        self._block(depth + 1, level + 1)
        if self._random.random() < 0.5:
            self._write(depth, "else:")
            self._block(depth + 1, level + 1)

    def _for(self, depth: int, level: int) -> None:
        self._names += 1
        name = f"x{self._names}"
        self._write(depth, f"for {name} in {self._pick('range(3)', 'l[:3]', '[ask(s), t]', 'words(s)[:2]')}:")
        self._write(depth + 1, f"s = {self._pick('str', 'ask', 'safe')}({name})[:20]")
        self._block(depth + 1, level + 1)
        if self._random.random() < 0.3:
            self._write(depth + 1, f"if {self._condition(0)}:")
            self._write(depth + 2, self._pick("break", "continue"))

    def _try(self, depth: int, level: int) -> None:
        self._write(depth, "try:")
        self._block(depth + 1, level + 1)
        if self._random.random() < 0.5:
            self._fail(depth + 1, level)
            self._block(depth + 1, level + 1)
        self._write(depth, f"except {self._pick('ValueError', '(ValueError, Error)', 'Exception')} as error:")
        self._write(depth + 1, "s = f'caught {error}'[:40]")
        self._block(depth + 1, level + 1)
        if self._random.random() < 0.3:
            self._write(depth, "else:")
            self._block(depth + 1, level + 1)
        if self._random.random() < 0.3:
            self._write(depth, "finally:")
            self._block(depth + 1, level + 1)

    def _with(self, depth: int, level: int) -> None:
        self._write(depth, f"with contextlib.nullcontext({self._text(1)}) as t:")
        self._block(depth + 1, level + 1)

    def _def(self, depth: int, level: int) -> None:
        self._names += 1
        name = f"f{self._names}"
        self._write(depth, f"def {name}(a, n=2):")
        self._write(depth + 1, "t, s, d, l = a, a, {}, [a]")
        for _ in range(2):
            self._assign(depth + 1, 3)
            self._change(depth + 1, 3)
        self._write(depth + 1, f"return {self._pick('t', 's', 'ask(s)', 'str(l)')}")
        self._write(depth, f"l.append({name}({self._text(0)}))")

    def _fail(self, depth: int, level: int) -> None:
        self._write(
            depth,
            self._pick(
                'ask("boom " + s)',
                't = ask(f"boom {t}")',
                'l.append(ask(f"boom {s}"))',
                'd["b"] = f"{ask(s)} {ask(str(n) + \'boom\')}"',
                'raise Error(f"own {s}")',
                'l = fill(l, "boom")',
                "n = int(s)",
            ),
        )


def made_up(seed: int) -> FunctionType:
    """Return a program."""
    text = Writer(seed).source()
    name = f"<program {seed}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    scope: dict[str, Any] = {"__name__": f"program_{seed}"}
    exec(compile(text, name, "exec"), scope)
    return scope["program"]


def outcome(function: Callable[..., Any], q: str) -> tuple[str, list[str]]:
    """Return the result or the error of a program, and the calls that it made."""
    programs.made.clear()
    try:
        found = repr(function(q))
    except Exception as error:  # noqa: BLE001
        found = f"{type(error).__name__}: {error}"
    return found, sorted(programs.made)
