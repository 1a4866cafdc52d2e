"""What of edges the graphs, reducers and traces use."""

from mahsm.edges._reduce import Reducer as Reducer
from mahsm.edges._reduce import streams_as as streams_as
from mahsm.edges._shared.items import current_item as current_item

__all__ = ["Reducer", "current_item", "streams_as"]
