"""What the edges have in common.

- `edge`         what all edges are: a node that LangGraph can look into; `drawing`: how it is drawn
- `constructor`  a function that makes an edge, and can be called again for a changed copy
- `call_spec`    what is called and how, for items and branches; `tries`: how each attempt is made
- `ends`         when a run is over; `failures`: what becomes of items and branches that fail
- `reducer`      reducers that take entries one by one, and may be decided early
- `lowering`     how an edge becomes a LangGraph subgraph, and how that is run
- `session`      what is around one run of any edge
- `run`          one run of an edge; `break_off`: how it ends at an error
- `attempts`     what an attempt waits for, and what follows from its end; `hedging`: two calls for one item
- `items`        the slots that an item holds and lends
- `adaptive`     how many slots there are, if that is found out; `graph_limit`: those of LangGraph
- `streams`      what streams, events and tracers hear of an edge and its items
- `finished`     items as they finish
- `saving`       what has been saved holds back new calls
- `writes`       what is written to keys that the parent's state reduces
"""
