"""Ten lines: a function over a model, made fast, many, reliable, and composed."""

from mahsm import Response, chain, ensemble, models, retry, xcs
from mahsm.context import with_context
from mahsm.testing import ModelServer


def analyze(text: str) -> Response:
    return models("gpt-4", f"analyze {text}")


def enrich(facts: Response) -> Response:
    return models("gpt-4", f"topic of {facts}")


server = ModelServer(lambda call: call.text.upper())  # in place of a provider
with server, with_context(models={"api_base": server.base_url}, credentials={"openai_api_key": "test"}):
    print(xcs.jit(analyze)("a"))
    print(*xcs.vmap(analyze)(["a", "b"]), sep=", ")
    print(retry(analyze, max_attempts=3)("a"))
    print(*ensemble(analyze, analyze)("a"), sep=", ")
    print(chain(analyze, enrich)("a"))

# Output:
# ANALYZE A
# ANALYZE A, ANALYZE B
# ANALYZE A
# ANALYZE A, ANALYZE A
# TOPIC OF ANALYZE A
