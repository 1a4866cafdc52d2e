"""Seeing calls of models where they are made: DSPy's by its language models, LangChain's by a callback
handler.
"""

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from mahsm._model_calls.calls import clients_retry
from mahsm._model_calls.client_retries import obey_edges
from mahsm._model_calls.dspy import observed_settings
from mahsm._model_calls.langchain import chat_models_seen


@contextmanager
def observed(*, retries: bool = True) -> Generator[None, None, None]:
    """See the calls that are made in the block.

    Args:
        retries: Whether clients may try again by themselves.
    """
    with ExitStack() as stack:
        stack.enter_context(chat_models_seen())
        if not retries:
            obey_edges()
            stack.callback(clients_retry.reset, clients_retry.set(False))
        if "dspy" in sys.modules:  # whoever uses it has imported it
            stack.enter_context(observed_settings())
        yield
