"""Benchmarks: `python -m benchmarks SCENARIO`. One file per scenario; README.md has the results."""
