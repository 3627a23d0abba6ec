"""`runnerwsgi docker …`: the container's life."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click


def register(group: click.Group) -> None:
    """Add the commands to *group*."""
    from . import build, verbs

    for command in (
        *(verbs.up, verbs.down, verbs.restart),
        *(verbs.status, verbs.logs),
        *(build.build, build.wheels, verbs.watch, verbs.compose),
    ):
        group.add_command(command)
