"""Logs of choices and their rewards: in JSON-lines files, as lists of dicts, or from Langfuse."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mahsm._common import MOST, is_figure, shown
from mahsm.errors import LearnError
from mahsm.learn._from_langfuse import fetch

if TYPE_CHECKING:
    from mahsm.tracing._internal import Langfuse

__all__ = ["Logged", "Scored", "from_langfuse", "read", "write"]


@dataclass(frozen=True, slots=True)
class Logged:
    """A choice in a log.

    Attributes:
        features: What the router decided by, or was given.
        arm: What was chosen.
        propensity: The probability with which it was chosen, in (0, 1]; None if it is unknown.
        reward: Its reward; None if there is none yet.
        id: The id of the choice.

    Example:
        >>> from mahsm.learn.logs import Logged
        >>> Logged([0.5], "cheap", propensity=0.8, reward=1.0).arm
        'cheap'
    """

    features: Any
    arm: str
    propensity: float | None = None
    reward: float | None = None
    id: str | None = None


def read(source: str | os.PathLike[str] | Iterable[Mapping[str, Any] | Logged]) -> list[Logged]:
    """Return the rows of a log.

    A row has `arm`, and may have `features`, `propensity`, `reward` and `id`; other keys are ignored. Of rows
    with the same id, later ones fill in what earlier ones lack: a log may have a row for the choice, and
    another one, `{"id": ..., "reward": ...}`, for its reward.

    Args:
        source: Path of a JSON-lines file, or dicts.

    Raises:
        LearnError: if a row is invalid, or an id has two rewards.
        OSError: if the file cannot be read.

    Example:
        >>> from mahsm.learn import logs
        >>> rows = [{"id": "a", "arm": "cheap", "propensity": 0.8}, {"id": "a", "reward": 1.0}]
        >>> [row] = logs.read(rows)
        >>> row.arm, row.propensity, row.reward
        ('cheap', 0.8, 1.0)
    """
    if isinstance(source, str | os.PathLike):
        return _joined(_lines(os.fspath(source)))
    return _joined(
        (f"row {place}", asdict(row) if isinstance(row, Logged) else row) for place, row in enumerate(source)
    )


def write(path: str | os.PathLike[str], rows: Iterable[Logged]) -> None:
    """Append rows to a JSON-lines file, which is made if it is missing.

    Example:
        >>> import pathlib, tempfile
        >>> from mahsm.learn import logs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "log.jsonl")
        ...     logs.write(path, [logs.Logged([0.5], "cheap", 0.8, 1.0)])
        ...     logs.read(path)
        [Logged(features=[0.5], arm='cheap', propensity=0.8, reward=1.0, id=None)]
    """
    lines = [json.dumps(asdict(row), default=_plain) + "\n" for row in rows]
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(lines))


class Scored(list[Logged]):
    """Rows of a log from Langfuse, each with its reward.

    Attributes:
        unscored: The number of choices without a score, which are left out.
        unreadable: The number of observations of choices that are left out since their metadata is not what
            the edge has written, such as behind a `mask` of the client.
    """

    unscored: int = 0
    unreadable: int = 0


def from_langfuse(
    client: "Langfuse | None" = None,
    *,
    name: str | Sequence[str] = "mahsm.reward",
    edge: str | None = None,
    from_: datetime | None = None,
    to: datetime | None = None,
    values: Mapping[str, float] | None = None,
) -> Scored:
    """Return the choices of traced `route` edges that have a score in Langfuse, as rows of a log.

    Scores are those of `tracing.reward`, or what readers of a dashboard have given: on the edge, on what it
    has called, on an observation around it, or on the whole trace, where it counts for all choices inside. Of
    several scores of a choice the nearest counts, and of these the latest. Langfuse's client tries again
    after a 429 or a server's error.

    Args:
        client: Langfuse's client; by default the one that traces go to.
        name: The name of the scores, or several names.
        edge: Only choices of this edge, by its name: `"ask"`, or `"route:ask"`, as a dashboard has it.
        from_: Only choices from this time on. Pass it for large projects: all of them are read otherwise.
        to: Only choices before this time.
        values: What categories of categorical scores are worth, such as `{"good": 1.0, "bad": 0.0}`.

    Returns:
        A list for `Router.fit` and `evaluate`, in the order of the choices. It also has the number of choices
        without a score: `unscored`.

    Raises:
        LearnError: if an argument is invalid, or a score is a string that `values` lacks.
        RuntimeError: if there is no client: call `tracing.init()`, or pass one.
        Exception: what Langfuse's client raises.

    Example:
        >>> from mahsm import tracing
        >>> from mahsm.learn import Router, logs, route
        >>> from mahsm.testing import LangfuseServer
        >>> router = Router(["cheap", "strong"], min_explore=0.2, seed=0)
        >>> edge = route(router, dict.fromkeys(router.labels, lambda state: {"y": 1}), key="x", name="ask")
        >>> with LangfuseServer() as server:
        ...     _ = tracing.init("pk-logs-example", "sk", server.url)
        ...     choices = [edge.invoke({"x": [number / 3]})["choice"] for number in range(3)]
        ...     tracing.reward(choices[0]["id"], True)
        ...     tracing.flush()
        ...     log = logs.from_langfuse(edge="ask")
        ...     tracing.off()
        >>> [(row.features, row.reward) for row in log], log.unscored
        ([([0.0], 1.0)], 2)
    """
    found = fetch(client, name, edge, from_, to, values)
    scored = Scored(read(found.rows))
    scored.unscored, scored.unreadable = found.unscored, found.unreadable
    return scored


def _plain(value: Any) -> Any:
    """Return an array or a NumPy number as JSON values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise LearnError(f"logs.write: {shown(value)} cannot be written as JSON; expected numbers or strings.")


def _lines(path: str) -> Iterable[tuple[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"{path}, line {number}", json.loads(line)
                except ValueError:
                    raise LearnError(
                        f"{path}, line {number} is {shown(line)}; expected a JSON object."
                    ) from None


def _joined(rows: Iterable[tuple[str, Any]]) -> list[Logged]:
    found: dict[Any, dict[str, Any]] = {}
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise LearnError(f"{where} is {shown(row)}; expected a dict with 'arm', such as a Logged has.")
        values = {name: value for name, value in cast("Mapping[str, Any]", row).items() if value is not None}
        _check(where, values)
        earlier = found.setdefault(values.get("id", where), {})
        if "reward" in values and "reward" in earlier:
            raise LearnError(f"{where}: the id {values['id']!r} has a second reward; expected one.")
        earlier.update(values)
    return [_row(values) for values in found.values()]


def _row(values: Mapping[str, Any]) -> Logged:
    arm = values.get("arm")
    if not isinstance(arm, str):
        raise LearnError(f"the row {shown(values)} has no 'arm'; expected the name of what was chosen.")
    features, propensity, reward, id = map(values.get, ("features", "propensity", "reward", "id"))
    return Logged(features, arm, propensity, reward, id)


def _check(where: str, values: dict[str, Any]) -> None:
    propensity = values.get("propensity")
    if propensity is not None and not (is_figure(propensity) and 0 < propensity <= 1):
        raise LearnError(f"{where}: propensity={shown(propensity)}; expected a number in (0, 1].")
    if "reward" in values:
        values["reward"] = as_reward(where, values["reward"])


def as_reward(where: str, value: Any) -> float:
    """Return a reward as a float; True is 1 and False 0.

    Raises:
        LearnError: if it is not a finite number.
    """
    if isinstance(value, bool | np.bool_):
        return float(bool(cast("Any", value)))
    if not is_figure(value, least=-MOST):
        raise LearnError(f"{where}: reward={shown(value)}; expected a finite number, or True or False.")
    return float(value)


def rewarded(source: Any) -> list[Logged]:
    """Return the rows of a log that have a reward."""
    return [row for row in read(source) if row.reward is not None]
