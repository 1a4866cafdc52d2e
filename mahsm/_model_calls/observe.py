"""`observed`: a block in which the calls of DSPy's and LangChain's models are observed."""

import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

from mahsm._model_calls import calls
from mahsm._model_calls import langchain as _  # noqa: F401  LangChain then asks its handlers
from mahsm._model_calls.client_retries import obey_edges
from mahsm._model_calls.dspy import observed_settings


@contextmanager
def observed(*, retries: bool = True) -> Generator[None, None, None]:
    """Observe the calls of models in the block.

    Args:
        retries: Let clients retry by themselves.
    """
    if not retries:
        obey_edges()
    # Code that uses DSPy has imported it.
    has_dspy = "dspy" in sys.modules
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
