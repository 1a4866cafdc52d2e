"""Beyond one process: one quota for several of them."""

from benchmarks import report, shared_limits, sharers


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
    return report.run("scale", parts, quick=quick)
