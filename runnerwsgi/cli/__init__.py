"""The command line: `runnerwsgi COMMAND …`, one module a group of commands.

A command's module is imported when the command is typed, so that `--help` is quick. Exit
status 0; 1 when it failed, with one line on stderr that says what to do; 2 for wrong usage.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from .command import Group


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command is, and its line in the overview."""

    name: str
    module: str
    summary: str


# The overview reads from this table; each command's own `--help` is beside its code.
SECTIONS: dict[str, tuple[Entry, ...]] = {
    "Make an extension": (
        Entry("new", "extensions", "Make the folder of a new extension."),
        Entry("build", "extensions", "Compile an extension's folder."),
        Entry("pack", "extensions", "Pack an extension's folder into a bundle."),
    ),
    "Install it": (
        Entry("install", "installs", "Install an extension from a folder or a bundle."),
        Entry("uninstall", "installs", "Uninstall an extension."),
        Entry("push", "push", "Upload a bundle to the store that runners fetch from."),
        Entry("installs", "installs", "List what is installed."),
    ),
    "Run it": (
        Entry("execute", "calls", "Call an extension's handler from here."),
        Entry("serve", "serve", "Serve a WSGI application with its extensions."),
        Entry("runner", "runner", "Run extensions for gateways elsewhere."),
        Entry("switch", "switch", "Change the backend of the running application."),
        Entry("health", "calls", "Say how the backend is."),
    ),
    "Look inside": (
        Entry("parity", "parity", "Compare an extension's answers on several backends."),
        Entry("plugins", "about", "List the installed plugins."),
        Entry("env", "about", "List every setting and where its value comes from."),
        Entry("doctor", "doctor", "Check settings, engine, store, database and port."),
    ),
}
ENTRIES = {entry.name: entry for section in SECTIONS.values() for entry in section}


class Overview(Group):
    """The top of the command line: our commands, and each plugin's under its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Our own commands. Those of plugins are not listed: that would need loading them."""
        return list(ENTRIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if entry := ENTRIES.get(cmd_name):
            module = import_module(f".{entry.module}", __name__)
            found: click.Command = getattr(module, cmd_name)
            return found
        from .plugins import commands_of

        return commands_of(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the typed command; for an unknown one, name the nearest."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0], ENTRIES, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise click.UsageError(f"There is no command `{args[0]}`.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview from the table, without importing a command."""
        width = max(map(len, ENTRIES))
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(entry.name.ljust(width), entry.summary) for entry in entries])


@click.group(
    cls=Overview,
    help="Sandboxed third-party extensions inside any WSGI application.",
    epilog="`runnerwsgi COMMAND --help` tells more. `runnerwsgi PLUGIN` has a plugin's own "
    "commands.",
)
@click.version_option(package_name="runnerwsgi", message="runnerwsgi %(version)s")
def cli() -> None:
    """The top of the command line."""


def main(args: Sequence[str] | None = None) -> Any:
    """Run the command line and leave with its exit status; the entry point `runnerwsgi`."""
    return cli.main(args=args, prog_name="runnerwsgi")
