"""Edges against a plain loop: what is drawn, what must come of it, and what must not be left behind.

- `case`         everything that one example draws
- `draws`        how examples are drawn
- `plain`        what a loop without any concurrency gives
- `world`        targets that count their calls, fail, end the process's patience, or cancel the run
- `savers`       checkpointers that are slow, or stop at their n-th write
- `building`     the edge of a case, and the graph around it
- `running`      one run after the other, until the graph is done
- `judging`      whether what came out is what the plain loop gives
- `leftovers`    tasks, threads, slots, tokens and file handles that are still there
- `branches`     the same for `parallel`

`python -m tests.model --examples 20000 --seed 1` runs many, and says how many were right.
"""
