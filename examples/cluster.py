"""Items over the workers of a Dask cluster; one of the workers is killed, and no result is lost."""

import os
import signal
import threading
import time
import warnings
from typing import Any

import distributed

from mahsm import vmap


def count_primes(state: dict[str, Any]) -> tuple[int, int]:
    """Count the primes below a number; also return the process."""
    time.sleep(0.05)  # stands in for more work
    primes = sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, state["item"]))
    return primes, os.getpid()


def main() -> None:
    """Run 100 items on two workers."""
    warnings.simplefilter("ignore")  # Dask's, of workers that end
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=None, silence_logs=60
        ) as local,
        distributed.Client(local) as client,
    ):
        edge = vmap(count_primes, batch_key="limits", out_key="primes", executor=client, max_concurrency=4)
        first = edge.invoke({"limits": [100] * 20})["primes"]
        threading.Timer(0.3, os.kill, (first[0][1], signal.SIGKILL)).start()
        found = edge.invoke({"limits": list(range(10, 110))})["primes"]
        print([primes for primes, _ in found[:5]], len(found), "results")
        print("this process did none:", os.getpid() not in {process for _, process in found})


if __name__ == "__main__":
    main()

# Output:
# [4, 4, 5, 5, 6] 100 results
# this process did none: True
