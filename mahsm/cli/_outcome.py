"""What a command prints, and how it fails.

A command returns an `Output` and prints nothing to stdout itself, so `--json` gives one document.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import CycloptsError, Parameter

from mahsm.errors import CredentialError, MahsmError

if TYPE_CHECKING:
    from rich.console import RenderableType

FAILED = 1
"""Exit code: it was tried, and failed."""
USAGE = 2
"""Exit code: an argument or a setting is invalid or missing; nothing was tried."""
INTERRUPTED = 130
"""Exit code after Ctrl+C: 128 + SIGINT, as shells have it."""
PIPE_CLOSED = 141
"""Exit code if nothing reads the output any more: 128 + SIGPIPE."""

Flag: TypeAlias = Annotated[bool, Parameter(negative=(), show_default=False)]
"""An option without a value."""
Json: TypeAlias = Annotated[
    bool,
    Parameter(
        negative=(),
        show_default=False,
        help="Print one JSON document on stdout, and errors as JSON on stderr.",
    ),
]
"""The option that each command has."""


class UsageError(MahsmError, ValueError):
    """An argument of the command line is invalid or missing."""


class Failed(MahsmError):
    """The command was run, and failed."""


@dataclass(frozen=True)
class Output:
    """What a command prints at its end.

    Attributes:
        document: What `--json` prints; its values are those of JSON.
        shown: What is printed otherwise: lines, and tables of rich's.
        as_json: Whether `--json` was given.
        code: The exit code.
    """

    document: Any
    shown: "Sequence[str | RenderableType]"
    as_json: bool = False
    code: int = 0

    def print(self) -> None:
        """Print it to stdout."""
        if self.as_json:
            text = _json(self.document)
            print(text if _encodable(text) else json.dumps(json.loads(text)))  # noqa: T201
            return
        for part in self.shown:
            if isinstance(part, str):
                print(_plain(part))  # noqa: T201
            else:
                print(_plain(_rendered(part)), end="")  # noqa: T201


def _json(document: Any) -> str:
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False)
    except ValueError:
        # JSON has no NaN and no infinity, which Python would write.
        finite = json.loads(json.dumps(document), parse_constant=lambda _: None)
        return json.dumps(finite, ensure_ascii=False)


_BOXES = str.maketrans("─━│┃┄┆▶▼◀▲", "--||-:>v<^") | dict.fromkeys(map(ord, "┌┐└┘├┤┬┴┼╭╮╯╰"), "+")
"""For the lines of drawings, what stands for them where stdout takes ASCII only."""


def _encodable(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _plain(text: str) -> str:
    """Return a text as stdout can write it: in a locale such as C, it takes ASCII only."""
    if _encodable(text):
        return text
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.translate(_BOXES).encode(encoding, "backslashreplace").decode(encoding)


def _rendered(part: "RenderableType") -> str:
    """Return what rich prints to stdout; printing itself, it would end the process if nothing reads."""
    from rich.console import Console

    console = Console()
    with console.capture() as captured:
        console.print(part, highlight=False)
    return captured.get()


def code_of(error: BaseException) -> int:
    """Return the exit code of an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, CycloptsError):
        return USAGE
    is_invalid = isinstance(error, ValueError | LookupError | CredentialError)
    return USAGE if isinstance(error, MahsmError) and is_invalid else FAILED


def report(command: str, error: BaseException, *, as_json: bool) -> None:
    """Print an error to stderr, on one line.

    Args:
        command: The command, such as "configure get"; "" for none.
        error: The error; of one that is not expected, its type and place are shown, too.
        as_json: Print it as JSON.
    """
    from mahsm._common import redacted

    message = redacted(" ".join(_message(error).split()))
    if as_json:
        line = json.dumps({"error": message, "type": type(error).__name__}, ensure_ascii=False)
    else:
        line = f"{f'mahsm {command}'.strip()}: {message}"
    print(line, file=sys.stderr)  # noqa: T201


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    if isinstance(error, MahsmError | OSError | CycloptsError):
        return str(error)
    return described(error)


def described(error: BaseException, file: str | None = None) -> str:
    """Return an error of somebody's code on one line, with its type and where it was raised.

    Args:
        error: The error, as it was caught.
        file: The path of a file; its innermost line is named, if it is in the traceback.
    """
    place = f" ({found})" if (found := _place(error, file)) else ""
    return f"{type(error).__name__}: {error}{place}" if str(error) else f"{type(error).__name__}{place}"


def _place(error: BaseException, file: str | None) -> str:
    if isinstance(error, SyntaxError):
        return ""  # Its message has the file and the line.
    places: list[tuple[str, int]] = []
    trace = error.__traceback__
    while trace is not None:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    inside = [place for place in places if place[0] == file] or places
    return f"{inside[-1][0]}, line {inside[-1][1]}" if inside else ""
