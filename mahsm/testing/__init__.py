"""What users of mahsm need in their own tests: a model server that is real, except for the model.

- `_server`    `ModelServer`: speaks the OpenAI chat API on loopback
- `_provider`  `Provider`: the same with limits, in a process of its own
"""

from mahsm.testing._provider import Provider as Provider
from mahsm.testing._provider import ProviderReport as ProviderReport
from mahsm.testing._server import Call as Call
from mahsm.testing._server import ModelServer as ModelServer
from mahsm.testing._server import Reply as Reply

__all__ = ["Call", "ModelServer", "Provider", "ProviderReport", "Reply"]
