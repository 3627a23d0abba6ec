"""How many runner calls may hold a host thread, in all and per extension (security §6)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Overloaded


class Bulkhead:
    """Slots that are taken at once or not at all: nobody waits for one with a host thread.

    Example::

        bulkhead = Bulkhead(slots=2, per_extension=1)
        with bulkhead.slot("demo.notes"):
            ...

    Attributes:
        refused: how many calls found no slot.
    """

    def __init__(self, slots: int, per_extension: int) -> None:
        self.slots = slots
        self.per_extension = per_extension
        self.refused = 0
        self._taken: Counter[str] = Counter()
        self._in_use = 0
        self._lock = threading.Lock()

    @property
    def in_use(self) -> int:
        """How many slots are taken now."""
        return self._in_use

    @contextmanager
    def slot(self, extension_id: str) -> Iterator[None]:
        """Hold a slot for one call.

        Raises:
            Overloaded: every slot is taken, or every one this extension may have.
        """
        self._take(extension_id)
        try:
            yield
        finally:
            self._release(extension_id)

    def _take(self, extension_id: str) -> None:
        with self._lock:
            taken = self._taken[extension_id]
            if self._in_use < self.slots and taken < self.per_extension:
                self._in_use += 1
                self._taken[extension_id] = taken + 1
                return
            self.refused += 1
        raise Overloaded(
            f"{self._in_use} of {self.slots} slots in use, "
            f"{taken} of {self.per_extension} by {extension_id}"
        )

    def _release(self, extension_id: str) -> None:
        with self._lock:
            self._in_use -= 1
            self._taken[extension_id] -= 1
            if not self._taken[extension_id]:
                del self._taken[extension_id]
