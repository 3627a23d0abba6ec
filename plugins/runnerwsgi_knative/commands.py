"""`runnerwsgi knative …`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click


def register(group: click.Group) -> None:
    """Add the commands to *group*."""
    from . import lint, manifest

    for command in (manifest.manifest, lint.lint):
        group.add_command(command)
