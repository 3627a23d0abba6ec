"""A document as a tree: the places in it, and what stands there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Place = tuple[str | int, ...]

# In a pattern: every item of a list, every field of a mapping.
EACH = "*"

_SIMPLE = re.compile(r"[A-Za-z]+")


def find(tree: Any, pattern: tuple[str, ...], at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every place that fits a pattern, with its value; null counts as not there.

    Example::

        find(service, ("spec", "traffic", EACH, "percent"))
    """
    if tree is None:
        return
    if not pattern:
        yield at, tree
        return
    for name, value in _fields(tree, pattern[0]):
        yield from find(value, pattern[1:], (*at, name))


def _fields(tree: Any, name: str) -> Iterable[tuple[str | int, Any]]:
    if isinstance(tree, list):
        return enumerate(tree) if name is EACH else ()
    if not isinstance(tree, Mapping):
        return ()
    if name is EACH:
        return [(str(each), value) for each, value in tree.items()]
    return [(name, tree[name])] if name in tree else ()


def first(tree: Any, *pattern: str) -> Any:
    """The value of the first place that fits, or None."""
    return next((value for _, value in find(tree, pattern)), None)


def shown(place: Place) -> str:
    """``spec.traffic[0].percent``, as `kubectl explain` and error messages have it."""
    return "".join(map(_shown, place)).removeprefix(".")


def _shown(step: str | int) -> str:
    if isinstance(step, str) and _SIMPLE.fullmatch(step):
        return f".{step}"
    return f'["{step}"]' if isinstance(step, str) else f"[{step}]"
