"""`observed`: a block in which the calls of DSPy's and LangChain's models are observed."""

import sys

from mahsm._model_calls import calls
from mahsm._model_calls import langchain as _  # noqa: F401  LangChain then asks its handlers
from mahsm._model_calls.client_retries import obey_edges
from mahsm._model_calls.dspy import observed_settings


class observed:
    """A block in which the calls of models are observed.

    Args:
        retries: Let clients retry by themselves.
    """

    __slots__ = ("_options", "_retries", "_settings")

    def __init__(self, *, retries: bool = True) -> None:
        self._retries = retries

    def __enter__(self) -> None:
        if not self._retries:
            obey_edges()
        # Code that uses DSPy has imported it.
        has_dspy = "dspy" in sys.modules
        here = calls.here()
        self._options = calls.changed(
            langchain_observed=True,
            clients_retry=here.clients_retry and self._retries,
            dspy_observed=here.dspy_observed or has_dspy,
        )
        self._options.__enter__()
        self._settings = observed_settings() if has_dspy else None
        if self._settings is not None:
            self._settings.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._settings is not None:
            self._settings.__exit__()
        self._options.__exit__()
