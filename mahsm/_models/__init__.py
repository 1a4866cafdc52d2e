"""Direct calls of language models.

`models` is an object. Its code is here, since a module `mahsm.models` would hide it.

- `_models`         `models`
- `_binding`        `ModelBinding`: a model by its name and options
- `_response`       `Response`: an answer with its usage and price
- `_stream`         `Stream`: an answer as it arrives
- `_calls`          a call: from a prompt and options, an `_ask`, to a response
- `_prompts`        prompts with roles and images; `_structured`: types in place of text
- `_names`          aliases and full names; `_providers`: providers, registered ones, and their credentials
- `_clients`        clients by name and options; `_client`: DSPy's, without credentials
- `_chat_models`    LangChain's chat models
- `_node`           a binding as a LangGraph node
- `_internal`       names of models and providers for the `mahsm` command

DSPy is imported at the first call, and LangGraph only for a node.
"""

from mahsm._models._binding import ModelBinding as ModelBinding
from mahsm._models._clients import context_lm as context_lm
from mahsm._models._models import Models as Models
from mahsm._models._models import models as models
from mahsm._models._response import Response as Response
from mahsm._models._response import TokenUsage as TokenUsage
from mahsm._models._stream import Stream as Stream

__all__ = ["ModelBinding", "Models", "Response", "Stream", "TokenUsage", "context_lm", "models"]
