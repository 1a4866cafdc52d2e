"""Beyond one process: items in workers, and one quota for several processes."""

from benchmarks import executors, report, shared_limits, sharers


def main(*, quick: bool) -> int:
    parts: dict[str, report.Part] = {}
    if sharers.installed():
        processes = 2 if quick else 4
        parts |= {
            "limits: pace": lambda: shared_limits.pace(0.5 if quick else 10, processes, with_peers=not quick),
            "limits: cost": lambda: shared_limits.cost(500 if quick else 5_000),
            "limits: kill": lambda: shared_limits.kill(1 if quick else 12, processes),
            "limits: down": lambda: shared_limits.down(1 if quick else 9, processes),
        }
    else:
        print("no redis-server; Debian has it in the package redis-server")
    if executors.installed():
        kills = 1 if quick else 20
        parts |= {
            "workers: cost": lambda: executors.overhead(2_000 if quick else 1_000_000),
            "workers: pace": lambda: executors.pace(500 if quick else 10_000),
            "workers: memory": lambda: executors.flat(20_000 if quick else 1_000_000),
            "workers: kills of a worker": lambda: executors.killed_workers(kills),
            "workers: kills of the scheduler": lambda: executors.killed_schedulers(kills),
            "workers: kills of the client": lambda: executors.killed_clients(kills),
        }
    else:
        print("no Dask; pip install distributed")
    return report.run("scale", parts, quick=quick)
