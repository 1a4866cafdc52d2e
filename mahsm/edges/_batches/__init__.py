"""Calls of DSPy's models inside of a fan-out, as jobs of a provider's batch API.

- `seats`      who is open, and whether all of them wait for an answer
- `requests`   a request, and the endpoint that it goes to
- `engine`     DSPy's calls in an item, which ask for an answer in the next job
- `rounds`     the requests of a run: collected, submitted, answered
- `jobs`       one job, from its submission to its answers
- `client`     the batch API of one provider, through DSPy's clients
- `journal`    what a process that goes on after a kill has to know
- `estimates`  what requests are going to take, for budgets
- `collected`  the block in which a run collects its calls
"""

from mahsm.edges._batches.collected import collected as collected

__all__ = ["collected"]
