"""Items of a `vmap` in other processes.

- `other_processes`  the workers of an edge, and what is checked when it is made
- `engines`          one face for Dask, process pools and other executors
- `processes`        a pool of our own, which ends with this process
- `program`          what the parts of a run need in a worker; `crossing`: what must not cross to it
- `parts`            cuts the items into parts, sends them, and takes the results; `pace`: how large they are
- `marks`            files that tell of parts whose worker has died
- `values`           items, entries and errors as bytes
- `worker`           runs a part in a worker; `sharing`: with the limits of the process that sends it
"""

from mahsm.edges._vmap.executors.other_processes import OtherProcesses as OtherProcesses
from mahsm.edges._vmap.executors.other_processes import target_here as target_here

__all__ = ["OtherProcesses", "target_here"]
