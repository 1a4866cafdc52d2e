"""Engines: a pool of our own, one of concurrent.futures, and a Dask cluster, each with two real processes."""

import logging
import multiprocessing
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from mahsm.edges._vmap.executors.processes import shared_processes


@pytest.fixture(scope="session")
def own() -> Iterator[str]:
    yield "process"
    shared_processes().close()
    shared_processes.cache_clear()


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@pytest.fixture(scope="session")
def dask() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    # The scheduler is in this process, and what it logs is in the records of other tests otherwise.
    log = logging.getLogger("distributed")
    log.propagate = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=None, silence_logs=50
        )
        client = distributed.Client(cluster)
    yield client
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client.close()
        cluster.close()
    log.propagate = True


@pytest.fixture(params=["own", "pool", "dask"])
def engine(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)
