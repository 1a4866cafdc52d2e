"""`Response`: the answer of a model, with its usage and price."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from mahsm._common import Answer, shown


@dataclass(frozen=True)
class TokenUsage:
    """Tokens of one call of a model; of several calls, if a structured answer needed them.

    Attributes:
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens of the answer.
        cache_read_tokens: The part of the prompt's tokens that the provider read from its cache.
        cache_creation_tokens: The part that it wrote to its cache.
        reasoning_tokens: The part of the answer's tokens that are reasoning.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class Response:
    """The answer of a model. It is formatted as its text: `f"{response}"`, `str(response)`.

    Responses with the same text and output are equal, whichever model gave them and whatever they cost, so
    they can be counted in a vote. They are pickled without `raw`.

    Attributes:
        text: The text.
        output: The structured output, if one was asked for.
        usage: Its tokens; 0 of an answer from DSPy's cache.
        cost: Its price in US dollars; None if the price is unknown.
        model: The model that answered, as the provider reports it.
        cached: True if it came from DSPy's cache.
        raw: The client's own response: DSPy's, or a LangChain message.

    Example:
        >>> from mahsm import models
        >>> from mahsm.testing import FakeLM
        >>> response = models(FakeLM("4"), "2 + 2")
        >>> f"It is {response}.", response.usage.tokens > 0, response == models(FakeLM("4"), "2 * 2")
        ('It is 4.', True, True)
    """

    text: str
    output: Any = field(default=None, hash=False)
    usage: TokenUsage = field(default=TokenUsage(), compare=False)
    cost: float | None = field(default=None, compare=False)
    model: str = field(default="", compare=False)
    cached: bool = field(default=False, compare=False)
    raw: ClassVar[Any] = None
    """No field, so that neither checkpoints nor pickles have it; responses of calls have one of their own."""

    def json(self) -> Any:
        r"""Return the value that the text is JSON of, also if it is in a fenced block.

        Raises:
            ValueError: if the text is not JSON.

        Example:
            >>> Response('```json\n{"city": "Rome"}\n```').json()
            {'city': 'Rome'}
        """
        text = self.text.strip()
        if text.startswith("```"):
            text = text.partition("\n")[2].rpartition("```")[0]
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"the response is not JSON ({error}): {shown(self.text)}. Ask for a type instead: "
                "models(model, prompt, output=dict)."
            ) from None

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        return format(self.text, spec)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "raw"}


class Heard:
    """The answers of one direct call.

    Attributes:
        answers: The tokens and price of each.
        text: The text of the last one.
        raw: The client's own response of the last one.
    """

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.text = ""
        self.raw: Any = None

    def add(self, entry: Mapping[str, Any], answer: Answer) -> None:
        """Add an entry of DSPy's history, and its `Answer`."""
        self.answers.append(answer)
        self.raw = entry.get("response")
        first: Any = (entry.get("outputs") or [""])[0]
        self.text = first if isinstance(first, str) else first.get("text") or ""

    def response(self, output: Any = None) -> Response:
        """Return the response of the direct call."""
        paid = [answer for answer in self.answers if not answer.cached]
        prices = [answer.usd for answer in paid]
        model = self.answers[-1].model if self.answers else ""
        cost = None if None in prices else sum(filter(None, prices))
        cached = bool(self.answers) and not paid
        response = Response(self.text, output, _usage(paid), cost, model, cached)
        vars(response)["raw"] = self.raw
        return response


def _usage(answers: list[Answer]) -> TokenUsage:
    if len(answers) != 1:
        names = [one.name for one in fields(TokenUsage)]
        return TokenUsage(*(sum(getattr(answer, name) for answer in answers) for name in names))
    one = answers[0]
    return TokenUsage(
        one.input_tokens,
        one.output_tokens,
        one.cache_read_tokens,
        one.cache_creation_tokens,
        one.reasoning_tokens,
    )
