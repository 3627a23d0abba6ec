"""`plugins` and `env`: what is installed, and how it is set up."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any

import click

from runnerwsgi import discovery
from runnerwsgi.errors import ConfigurationError, RunnerError
from runnerwsgi.settings import SETTINGS, Setting, Settings, read, warn_of_unknown

from . import output
from .command import Command, json_option, quiet_logs, wants_json
from .plugins import hook_names
from .switch import switches_of, told

_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")
# Drivers of databases take one among their options, too.
_OPTION = re.compile(r"(?<=[?&])(\w*pass\w*)=[^&\s]*")
_NAMING = ("RUNNER_BACKEND", "RUNNER_PLUGINS")
_NONE: tuple[str, ...] = ()
# Computed from RUNNER_HOME where they are not set.
_DERIVED = ("RUNNER_HOME", "RUNNER_DATABASE_URL", "RUNNER_BUNDLE_STORE")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A row of `runnerwsgi plugins`."""

    name: str
    distribution: str
    used_as: str
    state: str
    hooks: tuple[str, ...]


@click.command(cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
@click.pass_context
def plugins(ctx: click.Context, names: tuple[str, ...]) -> None:
    """List the installed plugins, and load those that are in use.

    A plugin that RUNNER_BACKEND or RUNNER_PLUGINS does not name is not loaded; name it
    here to see whether it could be.
    """
    quiet_logs()
    found = discovery.installed()
    if unknown := sorted(set(names) - set(found)):
        known = ", ".join(found) or "none"
        raise ConfigurationError(f"No installed plugin is named {unknown[0]}. Installed: {known}.")
    uses = _uses(os.environ)
    rows = [_plugin(point, uses, names) for points in found.values() for point in points]
    missing = [name for name in uses if name not in found]
    if wants_json():
        output.print_json({"plugins": [asdict(row) for row in rows], "missing": missing})
    else:
        _print_plugins(rows)
    for name in missing:
        output.warn(f"{uses[name]}={name}, and no installed plugin has this name.")
    if missing or any(row.state.startswith("failed") for row in rows):
        ctx.exit(1)


def _uses(env: Mapping[str, str]) -> dict[str, str]:
    """Which variable names which plugin; whatever else is wrong in *env*."""
    values = read((row for row in SETTINGS if row.name in _NAMING), env)
    named = dict.fromkeys(values["RUNNER_PLUGINS"], "RUNNER_PLUGINS")
    return {values["RUNNER_BACKEND"]: "RUNNER_BACKEND", **named}


def _plugin(point: EntryPoint, uses: Mapping[str, str], asked: Iterable[str]) -> Plugin:
    used_as = uses.get(point.name, "-")
    state, hooks = ("not loaded: nothing names it", _NONE)
    if point.name in uses or point.name in asked:
        state, hooks = _try(point.name, used_as)
    return Plugin(point.name, discovery.distribution(point), used_as, state, hooks)


def _try(name: str, variable: str) -> tuple[str, tuple[str, ...]]:
    try:
        plugin = discovery.load(name, os.environ, variable=variable.replace("-", "plugin"))
        return "loaded", hook_names(plugin, name)
    except ConfigurationError as exc:
        return f"failed: {' '.join(exc.faults)}", ()


def _print_plugins(rows: list[Plugin]) -> None:
    output.print_table(
        ("name", "distribution", "used as", "state", "hooks"),
        [
            (row.name, row.distribution, row.used_as, row.state, " ".join(row.hooks) or "-")
            for row in rows
        ],
    )


@dataclass(frozen=True, slots=True)
class Value:
    """A row of `runnerwsgi env`: one setting, its value and where that comes from."""

    name: str
    value: str
    origin: str
    meaning: str
    owner: str
    fault: str | None = None


@click.command(cls=Command)
@click.option("--set", "only_set", is_flag=True, help="Only those that are set.")
@json_option
@click.pass_context
def env(ctx: click.Context, only_set: bool) -> None:
    """List every setting: its value, and where that comes from.

    Secrets and passwords are not shown. Exit status 1 when a setting is wrong.
    """
    quiet_logs()
    rows = list(values_of(SETTINGS, os.environ))
    rows += [row for table in plugin_tables() for row in values_of(table, os.environ)]
    faults = faults_of(os.environ, rows)
    unknown = warn_of_unknown(os.environ, discovery.installed())
    shown = [row for row in rows if row.origin != "default" or not only_set]
    switches = _switches(os.environ)
    if wants_json():
        fields = [asdict(row) for row in shown]
        output.print_json(
            {"settings": fields, "faults": faults, "unknown": unknown, "switches": switches}
        )
    else:
        output.print_table(
            ("setting", "value", "from"), [(row.name, row.value, row.origin) for row in shown]
        )
    for name in unknown:
        output.warn(f"{name} is set, and nothing reads it.")
    for configured, backend in switches.items():
        output.warn(told(configured, backend))
    for fault in faults:
        output.fault(fault)
    if faults:
        ctx.exit(1)


def _switches(env: Mapping[str, str]) -> dict[str, str]:
    """What overrules RUNNER_BACKEND, where that can be read."""
    with suppress(RunnerError):
        return switches_of(Settings.from_env(env))
    return {}


def values_of(table: Iterable[Setting], env: Mapping[str, str]) -> Iterator[Value]:
    """Each setting of a table with its value, as text that may be shown."""
    derived = _derived(env)
    for row in table:
        source = next((name for name in (row.name, *row.aliases) if env.get(name)), None)
        origin = "default" if source is None else "environment"
        if source in row.aliases:
            origin = f"environment ({source}, an older name)"
        try:
            value = read((row,), env)[row.name]
        except ConfigurationError as exc:
            yield Value(row.name, "wrong", origin, row.meaning, row.owner, " ".join(exc.faults))
        else:
            default = derived.get(row.name, row.default_text)
            shown = default if source is None else _shown(value)
            yield Value(row.name, shown, origin, row.meaning, row.owner)


def _derived(env: Mapping[str, str]) -> dict[str, str]:
    """What follows from other settings, where those are right."""
    with suppress(ConfigurationError):
        settings = Settings.from_env(env)
        return {name: _shown(getattr(settings, name[7:].lower())) for name in _DERIVED}
    return {}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return _OPTION.sub(r"\1=[secret]", _PASSWORD.sub(r"\1:[secret]@", str(value)))


def faults_of(env: Mapping[str, str], rows: Iterable[Value] = ()) -> list[str]:
    """Every fault of an environment: the shared settings', and those of plugins' own."""
    own = [row.fault for row in rows if row.fault and row.owner != "core"]
    try:
        Settings.from_env(env)
    except ConfigurationError as exc:
        return [*exc.faults, *own]
    return own


def plugin_tables() -> Iterator[tuple[Setting, ...]]:
    """The tables of the plugins in use, which a plugin's module has under the name `SETTINGS`."""
    found = discovery.installed()
    for point in (point for name in _uses(os.environ) for point in found.get(name, ())):
        # Why one cannot be imported is told where it is loaded.
        with suppress(Exception):
            table = getattr(import_module(point.module), "SETTINGS", ())
            yield tuple(row for row in table if isinstance(row, Setting))
