"""What users of mahsm need in their own tests: a model server that is real, except for the model.

- `_server`  `ModelServer`: speaks the OpenAI chat API on loopback
"""

from mahsm.testing._server import Call as Call
from mahsm.testing._server import ModelServer as ModelServer
from mahsm.testing._server import Reply as Reply

__all__ = ["Call", "ModelServer", "Reply"]
