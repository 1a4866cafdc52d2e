"""Requests to models, collected and sent as jobs of a provider's batch API.

- `seats`      who is open in a run, and whether all of them wait for an answer
- `requests`   a request, and the endpoint that it goes to
- `endpoints`  the endpoint of a DSPy model
- `earlier`    jobs of earlier processes, which a run goes on with
- `pending`    requests that wait until a job is submitted with them
- `queues`     the queue of a provider, which refuses jobs while too much is in it
- `rounds`     the requests of a run: collected, submitted, answered
- `watcher`    what a run wants to know of its rounds, and what users see of a job
- `jobs`       one job, from its submission to its answers
- `client`     the batch API of one provider, through DSPy's clients
- `records`    answers of ordinary calls, as they are noted
- `journal`    what a process that goes on after a kill has to know
- `abilities`  what a model can do, for DSPy's adapters
- `estimates`  what requests are going to take, for budgets

Nothing here knows edges; `mahsm.edges._batched` lets a run collect the calls of its items.
"""

from mahsm._batches.abilities import Abilities as Abilities
from mahsm._batches.abilities import abilities_of as abilities_of
from mahsm._batches.endpoints import CONNECTION_OPTIONS as CONNECTION_OPTIONS
from mahsm._batches.endpoints import endpoint_of as endpoint_of
from mahsm._batches.jobs import Job as Job
from mahsm._batches.journal import Journal as Journal
from mahsm._batches.requests import Ask as Ask
from mahsm._batches.requests import AtFullPrice as AtFullPrice
from mahsm._batches.requests import Endpoint as Endpoint
from mahsm._batches.rounds import Rounds as Rounds
from mahsm._batches.seats import Seat as Seat
from mahsm._batches.watcher import Watcher as Watcher
from mahsm._batches.watcher import status_of as status_of

__all__ = [
    "CONNECTION_OPTIONS",
    "Abilities",
    "Ask",
    "AtFullPrice",
    "Endpoint",
    "Job",
    "Journal",
    "Rounds",
    "Seat",
    "Watcher",
    "abilities_of",
    "endpoint_of",
    "status_of",
]
