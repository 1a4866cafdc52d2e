"""Processes that are killed and resumed until they are done.

- `plans`     what a worker runs: the kind of graph, the saver, and how many finished rows a kill may cost
- `worker`    the process that is killed
- `killing`   kills it at random moments, and counts what ran again
- `database`  a PostgreSQL server of our own

`python -m tests.kills --kills 200` runs all kinds over all savers, and prints a table.
"""
