"""What all commands share: `--json` and `--debug`, failures in one line, exit status."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import click

from runnerwsgi.errors import RunnerError

from . import output

T = TypeVar("T")

_DEBUG = "runnerwsgi.debug"
_JSON = "runnerwsgi.json"


def _remember(key: str) -> Callable[[click.Context, click.Parameter, bool], bool]:
    def callback(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
        if value:
            ctx.meta[key] = True
        return value

    return callback


def _flag(name: str, key: str, text: str) -> click.Option:
    return click.Option(
        [name], is_flag=True, expose_value=False, is_eager=True, callback=_remember(key), help=text
    )


class Command(click.Command):
    """A command with `--debug`, whose failures are one line on stderr and exit status 1.

    Example::

        @click.command(cls=Command)
        @json_option
        def installs() -> None: ...
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_flag("--debug", _DEBUG, "Show the traceback of a failure."))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; tell a failure in one line."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            raise  # whoever read has enough, as `head` does: click leaves without a word
        except Exception as exc:
            return fail(ctx, exc)


class Group(click.Group):
    """A group of :class:`Command`, with `--debug` before the command's name, too."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_flag("--debug", _DEBUG, "Show the traceback of a failure."))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; tell a failure to find or load one in one line."""
        try:
            return super().invoke(ctx)
        except RunnerError as exc:
            return fail(ctx, exc)


def json_option(function: Callable[..., T]) -> Callable[..., T]:
    """Give a command `--json`; :func:`wants_json` says whether it was typed."""
    text = "Print one JSON value, errors included."
    option = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember(_JSON),
        help=text,
    )
    return option(function)


def wants_json() -> bool:
    """Whether the running command was typed with `--json`."""
    return bool(click.get_current_context().meta.get(_JSON))


def wants_debug() -> bool:
    """Whether the running command was typed with `--debug`."""
    return bool(click.get_current_context().meta.get(_DEBUG))


def fail(ctx: click.Context, exc: Exception) -> Any:
    """Tell *exc* and leave with status 1; with `--debug`, let it through.

    Raises:
        Exit: always, without `--debug`.
    """
    if ctx.meta.get(_DEBUG):
        raise exc
    if ctx.meta.get(_JSON):
        output.print_json({"error": output.error_fields(exc)})
    for line in output.error_lines(exc):
        output.fault(line)
    ctx.exit(1)


def quiet_logs() -> None:
    """Keep the library's records below `error` off the terminal: the command tells them itself."""
    logger = logging.getLogger("runnerwsgi")
    before = logger.level
    logger.setLevel(logging.ERROR)
    click.get_current_context().call_on_close(lambda: logger.setLevel(before))
