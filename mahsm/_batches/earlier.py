"""Jobs of earlier processes, which a run goes on with."""

from collections import defaultdict, deque

from mahsm._batches.jobs import Job, Slot
from mahsm._batches.journal import Journal, Note
from mahsm._batches.requests import Ask, At, Where


class EarlierJobs:
    """The jobs that earlier processes of a run have left, and the places of requests in them.

    Args:
        journal: Where they are noted, or None if nothing is saved.
    """

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._notes: list[Note] = []
        self._slots: dict[tuple[Where, str], deque[Slot]] = defaultdict(deque)

    async def read(self) -> int:
        """Read the journal; return the number of the run's next job."""
        notes = [] if self._journal is None else await self._journal.read()
        self._notes = [note for note in notes if not note.is_gone]
        return 1 + max((note.number for note in notes), default=-1)

    @property
    def left(self) -> list[Note]:
        """The jobs that no request has come for."""
        return list(self._notes)

    def take(self, where: Where) -> list[tuple[Note, list[Slot]]]:
        """Return the jobs of an endpoint, each once."""
        found = [note for note in self._notes if note.where == where]
        if not found:
            return []
        self._notes = [note for note in self._notes if note not in found]
        return [(note, self._slots_of(note)) for note in found]

    def slot_for(self, ask: Ask) -> Slot | None:
        """Return the place of an equal request, which becomes that of this one."""
        slots = self._slots.get((ask.endpoint.where, ask.key))
        if not slots:
            return None
        slot = slots.popleft()
        slot.ask = ask
        return slot

    def drop(self, job: Job) -> None:
        """Forget the places of a job that no request has taken."""
        for slot in job.slots:
            if slot.ask is None:
                self._slots[job.note.where, slot.key].remove(slot)

    def _slots_of(self, note: Note) -> list[Slot]:
        assert self._journal is not None
        is_old, paid = note.number <= self._journal.failed_with, self._journal.paid
        slots = [Slot(key, at, paid=paid.get(at), is_old=is_old) for at, key in places(note)]
        for slot in slots:
            self._slots[note.where, slot.key].append(slot)
        return slots


def places(note: Note) -> list[tuple[At, str]]:
    """Return where each request of a job is, and its key."""
    return [((note.number, place), key) for place, key in enumerate(note.keys)]
