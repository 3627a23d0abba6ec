"""Plugins by entry-point name, and why one cannot be loaded."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from .errors import ConfigurationError

GROUP = "runnerwsgi"


def installed() -> dict[str, list[EntryPoint]]:
    """The entry points of every installed plugin, by name. Nothing is imported."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        same = found.setdefault(point.name, [])
        if point not in same:
            same.append(point)
    return dict(sorted(found.items()))


def distribution(point: EntryPoint) -> str:
    """Name and version of the distribution that brings *point*."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def load(name: str, env: Mapping[str, str], *, variable: str = "RUNNER_BACKEND") -> Any:
    """Import the plugin *name* and make its object.

    Args:
        name: the entry-point name.
        env: handed to the plugin's factory.
        variable: the setting that named it, for the error's text.

    Raises:
        ConfigurationError: no such plugin, two of it, or it cannot be imported or made.
    """
    factory = _factory(_entry_point(name, variable), variable)
    try:
        plugin = factory(env)
    except ConfigurationError:
        raise
    except Exception as exc:
        raise ConfigurationError(
            f"{variable}={name}: the plugin could not be set up: {type(exc).__name__}: {exc}."
        ) from exc
    if plugin is None:
        raise ConfigurationError(
            f"{variable}={name}: its factory returned None; it must return the plugin object."
        )
    return plugin


def module(name: str, *, variable: str = "RUNNER_BACKEND") -> ModuleType:
    """Import the plugin *name*, and make nothing of it.

    Raises:
        ConfigurationError: no such plugin, two of it, or it cannot be imported.
    """
    point = _entry_point(name, variable)
    _factory(point, variable)
    return sys.modules[point.module]


def _entry_point(name: str, variable: str) -> EntryPoint:
    plugins = installed()
    if name not in plugins:
        near = difflib.get_close_matches(name, plugins, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        names = ", ".join(plugins) or "none"
        raise ConfigurationError(
            f"{variable}={name}: no installed plugin has this name. Installed: {names}.{hint}"
        )
    if len(plugins[name]) > 1:
        owners = " and ".join(distribution(point) for point in plugins[name])
        raise ConfigurationError(
            f"{variable}={name}: {owners} both bring it; uninstall one of them."
        )
    return plugins[name][0]


def _factory(point: EntryPoint, variable: str) -> Callable[[Mapping[str, str]], Any]:
    culprit = f"{variable}={point.name} ({distribution(point)}, {point.value})"
    try:
        factory = point.load()
    except Exception as exc:
        raise ConfigurationError(
            f"{culprit} cannot be imported: {type(exc).__name__}: {exc}. "
            "Install what it needs, or name another plugin."
        ) from exc
    if not callable(factory):
        raise ConfigurationError(f"{culprit} is not callable; it must be a function of env.")
    return factory  # type: ignore[no-any-return]  # an entry point can be anything
