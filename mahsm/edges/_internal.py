"""What of edges the graphs, reducers and traces use."""

from mahsm.edges._shared.items import current_item as current_item
from mahsm.edges._shared.reducer import Reducer as Reducer
from mahsm.edges._shared.reducer import streams_as as streams_as

__all__ = ["Reducer", "current_item", "streams_as"]
