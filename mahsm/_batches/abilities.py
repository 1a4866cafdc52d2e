"""What a model can do: DSPy's adapters ask for it before they ask for a schema, tools or reasoning."""

from dataclasses import dataclass
from typing import Any

from mahsm._batches.requests import Endpoint


@dataclass(frozen=True)
class Abilities:
    """The names are those that DSPy looks for in an engine of one's own, where a missing one means "no"."""

    supports_function_calling: bool
    supports_reasoning: bool
    supports_response_schema: bool
    supported_params: frozenset[str]


Known = dict[tuple[Endpoint, str], Abilities]
"""Abilities that were found before, since DSPy takes a millisecond to find them."""


def abilities_of(lm: Any, endpoint: Endpoint, known: Known) -> Abilities:
    """Return what a model can do, as its default engine says."""
    key = endpoint, lm.model_type
    if key not in known:
        known[key] = Abilities(
            lm.supports_function_calling,
            lm.supports_reasoning,
            lm.supports_response_schema,
            frozenset(lm.supported_params),
        )
    return known[key]
