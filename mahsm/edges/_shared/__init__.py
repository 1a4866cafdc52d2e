"""Code that all edges share.

- `edge`         the `Edge` class, a node that LangGraph can look into; `drawing`: its drawing
- `constructor`  functions that make an edge, and can make a changed copy of it
- `call_spec`    the target and its options, for items and branches; `tries`: options of each attempt
- `ends`         when a run is over; `failures`: the treatment of items and branches that fail
- `reducer`      reducers that take entries one by one, and may be decided early
- `lowering`     compiles an edge into a LangGraph subgraph, and runs that subgraph
- `done`         the state of that subgraph
- `session`      the contexts around one run of any edge
- `run`          one run of an edge; `break_off`: its end after an error
- `attempts`     the attempts of an item; `hedging`: a second call for a slow one
- `items`        the slots that an item holds and lends
- `adaptive`     a number of slots that adapts to the provider; `graph_limit`: the slots of a graph run
- `streams`      streams, events and callbacks of an edge and its items
- `finished`     items as they finish
- `saving`       holds back new calls while too many results are unsaved
- `writes`       writes to keys that the parent's state reduces
"""
