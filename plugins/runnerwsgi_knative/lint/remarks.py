"""What there is to say about a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .tree import Place, shown

# What becomes of what is wrong: Knative says no; it says nothing and does nothing; or it does as
# it is told, to the runner's harm.
EFFECTS = REFUSED, IGNORED, UNWISE = "refused", "ignored", "unwise"


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing about a document.

    Attributes:
        effect: ``refused``, ``ignored`` or ``unwise``.
        place: where it stands.
        reason: why, and what to write instead.
    """

    effect: str
    place: str
    reason: str


Remarks = Iterator[Remark]


def refused(place: Place, reason: str) -> Remark:
    """Knative says no."""
    return Remark(REFUSED, shown(place), reason)


def ignored(place: Place, reason: str) -> Remark:
    """Knative says nothing, and does nothing."""
    return Remark(IGNORED, shown(place), reason)


def unwise(place: Place, reason: str) -> Remark:
    """Knative does it, to the runner's harm."""
    return Remark(UNWISE, shown(place), reason)
