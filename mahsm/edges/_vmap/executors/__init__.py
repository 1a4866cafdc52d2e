"""Items of a `vmap` in other processes.

- `engines`    one face for Dask, process pools and other executors
- `processes`  a pool of our own, which ends with this process
- `crossing`   what is sent to workers, and what must not be
- `parts`      cuts the items into parts, sends them, and takes the results
- `worker`     runs a part in a worker
"""
