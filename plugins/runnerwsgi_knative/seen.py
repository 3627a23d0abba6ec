"""Seen: what was found of a Knative Service in one look at its three layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from . import layers

if TYPE_CHECKING:
    from .control import Sight
    from .layers import Layer, Status


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found of a service, at about one moment.

    Attributes:
        control: what Kubernetes knows of it.
        route: the way there.
        runner: what answers there.
        sight: the objects that Kubernetes has; None where it is not asked.
        checks: the runner's own, by name.
    """

    control: Layer
    route: Layer
    runner: Layer
    sight: Sight | None = None
    checks: Mapping[str, str] = field(default_factory=dict)

    @property
    def layers(self) -> Mapping[str, Layer]:
        """All three, by name."""
        return {"control": self.control, "route": self.route, "runner": self.runner}

    @property
    def status(self) -> Status:
        """How calls are served."""
        return layers.total(self.control, self.route, self.runner)

    def is_like(self, other: Seen) -> bool:
        """Whether nothing but the time is another."""
        return _timeless(self) == _timeless(other)


def _timeless(seen: Seen) -> Seen:
    return replace(seen, sight=seen.sight and replace(seen.sight, at=0.0))
