"""The guest's world as WIT, and the smallest component of it (protocol §5).

``alga.wit`` is what ``runnerwsgi build`` compiles extensions against, whatever backend runs
them; ``echo.wat`` is a component written by hand, and the template ``wat`` of
``runnerwsgi new extension``.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

WORLD = "runner"
ALGA: Traversable = files(__name__).joinpath("alga.wit")
ECHO: Traversable = files(__name__).joinpath("echo.wat")
