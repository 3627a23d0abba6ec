"""`runnerwsgi knative status`: control plane, way there and runner, and what is deployed."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from runnerwsgi.cli import output
from runnerwsgi.cli.command import Command, json_option, quiet_logs, wants_json
from runnerwsgi.settings import Settings, read

from . import SETTINGS, about, picture, plugin

if TYPE_CHECKING:
    from .health import Watch
    from .layers import Seen

# The Kubernetes API may take its time.
FIRST_SECONDS = 6.0
EVERY_SECONDS = 2.0
CHANGES_SHOWN = 8


@click.command(cls=Command)
@click.option("--watch", "-w", "is_watched", is_flag=True, help="Show what changes, until Ctrl-C.")
@json_option
@click.pass_context
def status(ctx: click.Context, is_watched: bool) -> None:
    """Say how the runner's Service is, and its revisions.

    Control plane, way there and runner are told apart. No pod is started for it. Exit status 1
    when calls are not served. With --watch and --json each change is one line.
    """
    quiet_logs()
    backend = plugin(os.environ)
    ctx.call_on_close(backend.runner_close)
    name = _name(os.environ)
    if is_watched:
        with suppress(KeyboardInterrupt):
            _follow(name, backend.watch)
        return
    seen = backend.watch.look(FIRST_SECONDS)
    if wants_json():
        output.print_json(to_json(name, seen))
    else:
        output.print_drawn(picture.of(name, seen))
    if seen.status == "unavailable":
        ctx.exit(1)


def _name(env: Mapping[str, str]) -> str:
    """What the service is called; its address where nobody named it."""
    return str(read(SETTINGS, env)["RUNNER_KNATIVE_SERVICE"] or Settings.from_env(env).base_url)


def to_json(name: str, seen: Seen) -> Mapping[str, Any]:
    """For programs."""
    return {
        "name": name,
        "status": seen.status,
        "layers": {
            what: {"word": layer.word, "means": layer.means, "detail": layer.detail}
            for what, layer in seen.layers.items()
        },
        "checks": dict(seen.checks),
        **({"kubernetes": about.of_sight(seen.sight)} if seen.sight else {}),
    }


def _follow(name: str, watch: Watch) -> None:
    if wants_json():
        for seen in _changes(watch):
            output.say(json.dumps({"at": round(time.time(), 3), **to_json(name, seen)}))
    elif sys.stdout.isatty():
        _draw(name, watch)
    else:
        for seen in _changes(watch):
            output.say(_now())
            output.print_drawn(picture.of(name, seen))


def _draw(name: str, watch: Watch) -> None:
    """The picture in one place of the terminal, and below it what it was before."""
    from rich.console import Group
    from rich.live import Live

    before: deque[str] = deque(maxlen=CHANGES_SHOWN)
    with Live(console=output.console(), auto_refresh=False) as live:
        for seen in _changes(watch):
            before.append(f"{_now()}  {picture.words(seen)}")
            live.update(Group(picture.of(name, seen), *before), refresh=True)


def _changes(watch: Watch) -> Iterator[Seen]:
    """What is seen first, and whatever is not as it was before."""
    last = watch.look(FIRST_SECONDS)
    yield last
    while True:
        time.sleep(EVERY_SECONDS)
        watch.renew()
        seen = watch.look(0.0)
        if not seen.is_like(last):
            yield seen
        last = seen


def _now() -> str:
    return time.strftime("%H:%M:%S")
