import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read once, when DSPy first prices a call
os.environ["HF_HUB_OFFLINE"] = "1"  # read when datasets is imported
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
"""Which of the processes that run the suite side by side this is; each has a cache of its own."""

os.environ["DSPY_CACHEDIR"] = os.path.join(
    os.path.dirname(__file__), os.pardir, ".pytest_cache", f"dspy-{WORKER}"
)

os.environ["MAHSM_HOME"] = os.path.join(os.path.dirname(__file__), os.pardir, ".pytest_cache", "no-settings")
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores: tests wait for timers and processes a third of the time."""
    return max(3, (os.cpu_count() or 2) * 3 // 2)


def pytest_report_header() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("langgraph", "langchain-core"))


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """After the test, every thread that an edge run started has ended."""
    yield
    deadline = time.monotonic() + 5
    while left := [thread for thread in threading.enumerate() if thread.name.startswith("mahsm-item")]:
        assert time.monotonic() < deadline, left
        left[0].join(timeout=0.1)


_numbers = itertools.count()


@pytest.fixture
def name() -> Iterator[str]:
    """A provider that no other test knows."""
    from mahsm import limits

    provider = f"provider{next(_numbers)}"
    yield provider
    limits.forget(provider)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis on a socket of its own."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("no redis-server; Debian has it in the package redis-server")
    socket = tmp_path_factory.mktemp("redis") / "socket"
    process = subprocess.Popen(
        [server, "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "ready to accept" in line.lower():
            break
    yield str(socket)
    process.terminate()
    process.communicate()


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """How to connect to a PostgreSQL of our own."""
    from tests.kills.database import postgres, programs

    if programs() is None:
        pytest.skip("no PostgreSQL; Debian has it in the package postgresql")
    pytest.importorskip("psycopg", reason="no psycopg; it is in the dev dependencies")
    with postgres() as address:
        yield address


@pytest.fixture(params=["memory", "sqlite", "redis"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Each of LangGraph's caches."""
    from langgraph.cache.memory import InMemoryCache
    from langgraph.cache.redis import RedisCache
    from langgraph.cache.sqlite import SqliteCache

    if request.param == "memory":
        yield InMemoryCache()
    elif request.param == "sqlite":
        cache = SqliteCache(path=str(tmp_path / "cache"))
        yield cache
        cache._conn.close()
    else:
        import redis

        client = redis.Redis(unix_socket_path=request.getfixturevalue("redis_server"))
        client.flushall()
        yield RedisCache(client)
        client.close()


SLOW = (
    "cli",
    "kills",
    "machines",
    "model",
    "storms",
    "context/test_saving.py",
    "edges/jit/test_devices.py",
    "edges/jit/test_without_jax.py",
    "edges/vmap/test_durability.py",
    "edges/vmap/test_properties.py",
    "graph/test_dspy_program_properties.py",
    "graph/test_optimisers.py",
    "limits/test_redis_down.py",
    "limits/test_sharers.py",
    "model_calls/test_dspy_bars.py",
    "policies/test_shared_budget_processes.py",
    "test_benchmarks.py",
    "test_docs.py",
    "test_types.py",
    "tracing/test_wire.py",
    "xcs/test_durable.py",
    "xcs/test_generated.py",
)
"""Folders and files of tests that start processes, or draw many examples."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that are slow, whose folder or file says so."""
    root = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(root).as_posix()
        if place in SLOW or place.partition("/")[0] in SLOW:
            item.add_marker("slow")
