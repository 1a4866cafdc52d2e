"""Ten lines: a function over a model, made fast, many, reliable, and composed."""

from mahsm import chain, ensemble, retry, xcs
from mahsm.operators import ModelBinding
from mahsm.testing import ModelServer

with ModelServer(lambda call: call.text.upper()) as server:
    model = ModelBinding.of(server.lm())

    def analyze(text: str) -> str:
        return model(f"analyze {text}")

    print(xcs.jit(analyze)("a"))
    print(xcs.vmap(analyze)(["a", "b"]))
    print(retry(analyze, max_attempts=3)("a"))
    print(ensemble(analyze, analyze)("a"))
    print(chain(analyze, str.lower, str.split)("a"))

# Output:
# ANALYZE A
# ['ANALYZE A', 'ANALYZE B']
# ANALYZE A
# ['ANALYZE A', 'ANALYZE A']
# ['analyze', 'a']
