"""`mahsm.usage()`: the usage of all model calls in a block."""

from collections.abc import Generator
from contextlib import contextmanager

from mahsm._common import is_price, shown
from mahsm._model_calls.counting import recorded
from mahsm._model_calls.dspy import restored_context
from mahsm._model_calls.observe import observed
from mahsm._model_calls.records import EdgeUsage, Ledger, Prices, Usage
from mahsm.errors import EdgeError

__all__ = ["EdgeUsage", "Ledger", "Usage", "usage"]


@contextmanager
def usage(prices: Prices | None = None) -> Generator[Ledger, None, None]:
    """Add up the usage of all model calls in the block: tokens, US dollars, calls, cache hits.

    It counts the calls of DSPy's and LangChain's models, and `mahsm.limits.report`, in all threads and event
    loops that the block uses, including those of `dspy.Parallel` and `dspy.Evaluate`. Blocks nest: a call
    counts in every block around it.

    Args:
        prices: From a model's name, as in `by_model`, to US dollars per million input and output tokens. A
            third price is that of input tokens that are read from the provider's prompt cache; without it
            they cost as others. Prices of the providers' own models are known.

    Yields:
        The sums so far, at any time: `calls`, `failed`, `cached`, `input_tokens`, `output_tokens`, `tokens`,
        `cache_read_tokens`, `cache_creation_tokens`, `usd` and `unpriced`; the same in `by_model` and
        `by_node`, and for each run of an edge in `runs`.

    Raises:
        EdgeError: immediately, for invalid prices.

    Example:
        >>> import dspy, mahsm
        >>> from mahsm.testing import FakeLM, Reply
        >>> answer = dspy.Predict("item -> answer")
        >>> ask = mahsm.vmap(answer, batch_key="questions", out_key="answers", name="ask")
        >>> lm = FakeLM(Reply({"answer": "yes"}, usage=(100, 10)), price=(1.0, 3.0))
        >>> with mahsm.usage() as used, dspy.context(lm=lm):
        ...     _ = ask.invoke({"questions": ["a?", "b?"]})
        >>> used
        Usage(calls=2, failed=0, cached=0, input_tokens=200, output_tokens=20, usd=0.00026, unpriced=0)
        >>> used.by_node["ask/Predict"].tokens, used.by_model["fake/model"].calls, used.runs[0].edge
        (220, 2, 'ask')
    """
    for model, price in (prices or {}).items():
        if not is_price(price):
            raise EdgeError(
                f"usage: prices[{model!r}]={shown(price)}; expected US dollars per million input and "
                "output tokens, such as (0.15, 0.6), or also per million input tokens from the provider's "
                "cache, such as (0.15, 0.6, 0.075)."
            )
    ledger = Ledger()
    with restored_context(), recorded(ledger, prices or {}), observed():
        yield ledger
