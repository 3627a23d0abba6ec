"""`runnerwsgi docker …`: the container's life."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click


def register(group: click.Group) -> None:
    """Add the commands to *group*."""
    from . import build

    group.add_command(build.build)
    group.add_command(build.wheels)
