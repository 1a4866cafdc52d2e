"""A server of models in a process of its own, so that its work is not the client's, and what it has seen."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

PRICES = {"gpt-4o-mini": (0.15, 0.60), "claude-haiku-4-5-20251001": (1.0, 5.0)}
"""US dollars per million tokens, as in the table that mahsm reads."""


@dataclass(frozen=True)
class Report:
    """What the server has seen.

    Attributes:
        jobs: The ids of the batch jobs.
        requests: Answered HTTP requests, by method and path; ids are left out of the paths.
        charges: Answers that were charged.
        repeated: Requests that were paid for more than once.
        usd: The bill.
    """

    jobs: list[str]
    requests: dict[str, int]
    charges: int
    repeated: int
    usd: float

    @property
    def beyond_polls(self) -> int:
        """HTTP requests other than those that ask for a job's status."""
        return sum(
            count for path, count in self.requests.items() if not path.startswith("GET /v1/batches/{id}")
        )


class Server:
    """The other process, from this one's side."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.base_url = self._read()

    def report(self) -> Report:
        return Report(**json.loads(self._told("report")))

    def finish(self) -> None:
        """Let the jobs that are open end."""
        self._told("finish")

    def wait_for_jobs(self, count: int) -> None:
        """Wait until so many jobs were submitted in all."""
        self._told(f"wait {count}")

    def _told(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def served(**jobs: Any) -> Generator[Server, None, None]:
    """A server whose jobs have these arguments of `BatchJobs`."""
    command = [sys.executable, "-c", f"from {__name__} import serve; serve({json.dumps(jobs)!r})"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()


def serve(options: str) -> None:
    """Run the server: print its URL, and an answer for each line of input, until the input ends."""
    from mahsm.testing import BatchJobs, Bill, Call, ModelServer, Reply

    seen: Counter[str] = Counter()

    def note(handler: BaseHTTPRequestHandler, *_: Any) -> None:
        path = re.sub(r"/[^/]*[_-][^/]*", "/{id}", handler.path.partition("?")[0])
        seen[f"{handler.command} {path}"] += 1

    BaseHTTPRequestHandler.log_request = note

    def answer(call: Call) -> Reply:
        return Reply({"answer": call.field("item").upper()}, usage=(100 + len(call.field("item")), 10))

    jobs, bill = BatchJobs(**json.loads(options)), Bill(PRICES)
    with ModelServer(answer, jobs=jobs, bill=bill) as server:
        print(server.base_url, flush=True)
        for line in sys.stdin:
            if line.startswith("wait"):
                jobs.wait_for("submit", int(line.split()[1]), timeout=600)
            elif line.startswith("finish"):
                jobs.finish()
            found = Report(jobs.ids, dict(seen), len(bill), len(bill.repeated), bill.usd)
            print(json.dumps(found.__dict__), flush=True)
