"""The compose file that ships with us, and the variables that it needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import image

if TYPE_CHECKING:
    from .plan import Plan

FILE = Path(__file__).with_name("compose.yaml")
_IMAGE = "runnerwsgi:latest"


def text() -> str:
    """The compose file, for the image of this version."""
    return FILE.read_text("utf-8").replace(_IMAGE, image.default_tag())


def environment(plan: Plan) -> str:
    """The lines of `.env` that it needs."""
    home = plan.shared.home
    owner = home.stat()
    lines = {
        "RUNNER_HOME": str(home),
        "RUNNER_DOCKER_IMAGE": plan.recipe.tag,
        # Whose files those in RUNNER_HOME are: the application in the network writes them, too.
        "RUNNER_DOCKER_USER": f"{owner.st_uid}:{owner.st_gid}",
    }
    return "".join(f"{name}={value}{os.linesep}" for name, value in lines.items())
