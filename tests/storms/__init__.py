"""Storms, each in a process of its own: cancellations, signals, clocks that jump, forks, and much of
everything.

`python -m tests.storms` runs all of them at full strength, and `python -m tests.storms cancels 500` one;
under pytest they are small.
"""
