"""`runnerwsgi knative …`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click


def register(group: click.Group) -> None:
    """Add the commands to *group*."""
    from . import lint, manifest, status

    for command in (manifest.manifest, lint.lint, status.status):
        group.add_command(command)
