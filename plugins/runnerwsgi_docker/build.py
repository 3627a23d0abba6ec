"""`runnerwsgi docker build` and `wheels`: the image, and what it is made of."""

from __future__ import annotations

import os
from pathlib import Path

import click

from runnerwsgi.cli import output
from runnerwsgi.cli.command import Command

from . import image
from .engine import Engine


@click.command(cls=Command)
@click.option("--tag", metavar="NAME", help="Name of the image.  [default: RUNNER_DOCKER_IMAGE]")
@click.option(
    "--base", metavar="IMAGE", help="Image to make it from.  [default: RUNNER_DOCKER_BASE]"
)
@click.option(
    "--wheels",
    type=click.Path(file_okay=False, path_type=Path),
    help="Take what is required from this folder, and let no container ask a package index; an "
    "empty folder is filled first.  [default: RUNNER_DOCKER_WHEELS]",
)
@click.option("--no-cache", is_flag=True, help="Reuse nothing of an earlier build.")
@click.option("--quiet", "-q", is_flag=True, help="Do not show what Docker says meanwhile.")
def build(
    tag: str | None, base: str | None, wheels: Path | None, no_cache: bool, quiet: bool
) -> None:
    """Build the runner's image.

    What goes in is the runnerwsgi that is installed here, a checkout included.
    """
    usual = image.Recipe.from_env(os.environ)
    recipe = image.Recipe(
        tag or usual.tag, base or usual.base, wheels or usual.wheels, cached=not no_cache
    )
    built = image.build(Engine(), recipe, (lambda line: None) if quiet else output.note)
    output.say(f"Built {recipe.tag} ({built.removeprefix('sha256:')[:12]}) from {recipe.base}.")


@click.command(cls=Command)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--base", metavar="IMAGE", help="Image to run on.  [default: RUNNER_DOCKER_BASE]")
def wheels(folder: Path, base: str | None) -> None:
    """Download wheels for `build --wheels`.

    FOLDER gets what the image requires, for the Python of the base image. A build from it needs no
    network.
    """
    base = base or image.Recipe.from_env(os.environ).base
    count = image.download(Engine(), base, folder)
    output.say(f"{folder} has {count} wheels for {base}.")
