"""The page's side: the two scripts that the gateway serves, loaded once as bytes."""

from __future__ import annotations

from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("bridge.js", "client.js")

SCRIPTS: Mapping[str, bytes] = MappingProxyType(
    {name: files(__name__).joinpath(name).read_bytes() for name in NAMES}
)
"""``bridge.js`` for host pages and ``client.js`` for extension pages, by file name."""
