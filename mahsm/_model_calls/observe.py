"""Observing calls of models where they are made: DSPy's by its language models, LangChain's by a callback
handler.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

from mahsm._model_calls import calls
from mahsm._model_calls.client_retries import obey_edges
from mahsm._model_calls.dspy import observed_settings


@contextmanager
def observed(*, retries: bool = True) -> Generator[None, None, None]:
    """A block whose calls of models are seen.

    Args:
        retries: Clients may retry by themselves.
    """
    if not retries:
        obey_edges()
    has_dspy = "dspy" in sys.modules  # whoever uses it has imported it
    here = calls.here()
    with (
        calls.changed(
            langchain_observed=True,
            clients_retry=here.clients_retry and retries,
            dspy_observed=here.dspy_observed or has_dspy,
        ),
        observed_settings() if has_dspy else nullcontext(),
    ):
        yield
