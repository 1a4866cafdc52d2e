"""`reward`: the reward of a router's choice, as a score in Langfuse."""

import uuid
from typing import Any

from mahsm._common import MOST, is_figure, redacted, shown
from mahsm.errors import LearnError
from mahsm.tracing import _api
from mahsm.tracing._backends import PREFIX
from mahsm.tracing._choices import CHOICE_ID, Place
from mahsm.tracing._langfuse import masked_text
from mahsm.tracing._setup import client_for, tracer_for

REWARD = "mahsm.reward"
"""The name of the score, unless another one is given."""

_NAMESPACE = uuid.UUID("5d0f3c1e-6a0b-4a53-9a51-0c7f7d2b9e11")


def reward(
    id: str, value: float, *, name: str = REWARD, comment: str | None = None, replace: bool = False
) -> None:
    """Write the reward of a choice as a score, on the observation of the `learn.route` edge that made it.

    `learn.logs.from_langfuse` finds it again. The router does not learn from it: call `router.reward`, too,
    or fit a router to such a log. The score is sent by a thread of Langfuse's client, like spans.

    The 10,000 latest choices of the process are found in memory. Others are looked up by Langfuse's API,
    which takes a request or two: their trace has to be there already.

    Args:
        id: The id of the choice.
        value: The reward: a number; or True or False, for a boolean score.
        name: The name of the score.
        comment: A comment on the score. Secrets in it are masked; then the client's `mask` sees it.
        replace: Let a new value replace an earlier one. The score's id and time follow from the choice, so a
            second one, also of another process, never counts as a further score.

    Raises:
        RuntimeError: if traces do not go to Langfuse.
        LearnError: if an argument is invalid; if no trace has the choice; or, unless `replace`, if the choice
            has its reward already. The rewards of other processes are known only for choices that are looked
            up.

    Example:
        >>> from mahsm import tracing
        >>> from mahsm.learn import Router, route
        >>> from mahsm.testing import LangfuseServer
        >>> edge = route(Router(["only"]), {"only": lambda state: {"y": 1}}, key="x")
        >>> with LangfuseServer() as server:
        ...     _ = tracing.init("pk-reward-example", "sk", server.url)
        ...     tracing.reward(edge.invoke({"x": None})["choice"]["id"], True, comment="thanks")
        ...     tracing.flush()
        ...     tracing.off()
        >>> [(score["name"], score["value"], score["dataType"]) for score in server.scores]
        [('mahsm.reward', 1.0, 'BOOLEAN')]
    """
    _check(id, value, name, comment)
    client, choices = client_for("tracing.reward"), tracer_for("tracing.reward").choices
    place, known = choices.find(id), False
    score_id = str(uuid.uuid5(_NAMESPACE, f"{name}\n{id}"))
    if place is None:
        place = _looked_up(client, id)
        known = not replace and any(_api.scores(client, id=score_id))
    choices.reward(id, name, replace=replace, known=known)
    place.client.create_score(
        name=name,
        value=float(value),
        data_type="BOOLEAN" if _is_bool(value) else "NUMERIC",
        score_id=score_id,
        trace_id=place.trace_id,
        observation_id=place.observation_id,
        # Langfuse replaces a score that has the same id and the same time.
        timestamp=place.begun,
        comment=None if comment is None else masked_text(place.client, redacted(comment)),
        metadata={f"{PREFIX}{CHOICE_ID}": id},
        environment=place.environment,
    )


def _looked_up(client: Any, id: str) -> Place:
    """Return the place of a choice of another process. A run that was resumed has it twice."""
    found = list(
        _api.observations(client, [_api.with_metadata(f"{PREFIX}{CHOICE_ID}", "=", id)], fields="basic")
    )
    if not found:
        raise LearnError(
            f"tracing.reward: no trace has the choice {shown(id)}; expected the id of a choice of a traced "
            "learn.route edge. If another process made it, call tracing.flush() there, and try again when "
            "Langfuse shows the trace."
        )
    last = max(found, key=lambda each: each.start_time)
    return Place(client, last.trace_id, last.id, last.start_time.replace(microsecond=0), last.environment)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")


def _check(id: Any, value: Any, name: Any, comment: Any) -> None:
    for argument, given in (("id", id), ("name", name)):
        if not isinstance(given, str) or not given:
            raise LearnError(f"tracing.reward: {argument}={shown(given)}; expected a string.")
    if not _is_bool(value) and not is_figure(value, least=-MOST):
        raise LearnError(f"tracing.reward: value={shown(value)}; expected a finite number, or True or False.")
    if comment is not None and not isinstance(comment, str):
        raise LearnError(f"tracing.reward: comment={shown(comment)}; expected a string.")
