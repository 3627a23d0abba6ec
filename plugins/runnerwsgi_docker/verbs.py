"""`runnerwsgi docker up`, `down`, `restart`, `status`, `logs`, `watch` and `compose`."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runnerwsgi.cli import output
from runnerwsgi.cli.command import Command, json_option, quiet_logs, wants_json
from runnerwsgi.errors import ConfigurationError, RunnerError

from . import compose as compose_file
from . import image, life, loglines, wheel
from .engine import Engine
from .plan import Plan
from .status import Status
from .watching import changes

if TYPE_CHECKING:
    from .container import Container

WAIT_SECONDS = 60
_RETRY_SECONDS = 1.0

port_option = click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Where it is published, on 127.0.0.1.  [default: that of RUNNER_DOCKER_HOST, 8085]",
)
wait_option = click.option(
    "--wait",
    type=click.IntRange(1, 3600),
    default=WAIT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long it may take until it is ready.",
)


@click.command(cls=Command)
@port_option
@click.option("--build", "rebuild", is_flag=True, help="Build the image, although there is one.")
@wait_option
@json_option
def up(port: int | None, rebuild: bool, wait: int) -> None:
    """Start the runner in a container, and print what the application needs to use it.

    It builds the image if there is none, makes a token, and waits until the runner can execute.
    A container that is not as the settings say is replaced; one that is, is left running.
    Bundles that are installed meanwhile are seen at once.
    """
    quiet_logs()
    plan, engine = _plan(port), Engine()
    wanted = _prepared(engine, plan, rebuild=rebuild)
    _started(engine, plan, wanted, wait)
    _tell_environment(plan)


@click.command(cls=Command)
@click.option("--volume", is_flag=True, help="Remove what it has compiled as well.")
def down(volume: bool) -> None:
    """End the container and remove it. Calls that run are finished first.

    The image stays, and so do the bundles, the token and what it has compiled.
    """
    quiet_logs()
    plan, engine = Plan.from_env(os.environ), Engine()
    life.find_ours(engine, plan.name, plan.shared.home)
    with output.working(f"Ending {plan.name}"):
        was_there = life.remove(engine, plan.name)
        life.tidy(engine, plan.name, volume=volume)
    output.note(f"{plan.name} has ended." if was_there else f"There is no {plan.name}.")


@click.command(cls=Command)
@wait_option
def restart(wait: int) -> None:
    """End the container and start it again as it is. Calls that run are finished first."""
    quiet_logs()
    plan, engine = Plan.from_env(os.environ), Engine()
    if life.find_ours(engine, plan.name, plan.shared.home) is None:
        raise _absent(plan)
    with output.working(f"Restarting {plan.name}"):
        life.restart(engine, plan.name)
    _wait(engine, plan, wait)


@click.command(cls=Command)
@json_option
@click.pass_context
def status(ctx: click.Context) -> None:
    """Say how the container is, and what does not agree with the settings.

    Exit status 1 when an application could not use it as it is.
    """
    quiet_logs()
    found = Status.of(Engine(), Plan.from_env(os.environ))
    if wants_json():
        output.print_json(found.to_json())
    else:
        output.print_table(("what", "found"), found.rows())
        for fault in found.faults:
            output.warn(f"{fault}.")
    if not found.is_well:
        ctx.exit(1)


@click.command(cls=Command)
@click.option("--follow", "-f", is_flag=True, help="Show new lines as they come.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Begin N lines before the end.")
@click.option("--extension", metavar="ID", help="Only lines about this extension.")
@click.option(
    "--request-id", metavar="ID", help="Only lines of this request; its beginning will do."
)
@click.option(
    "--level",
    type=click.Choice(loglines.LEVELS),
    default="debug",
    help="Only lines of this severity and above.",
)
@click.option("--raw", is_flag=True, help="Show the lines as the runner wrote them.")
def logs(
    follow: bool,
    tail: int | None,
    extension: str | None,
    request_id: str | None,
    level: str,
    raw: bool,
) -> None:
    """Show the runner's log. With --follow it goes on when the container is replaced."""
    quiet_logs()
    plan, engine = Plan.from_env(os.environ), Engine()
    wanted = loglines.Wanted(extension, request_id, level)
    if life.find(engine, plan.name) is None:
        raise _absent(plan)
    lines = _followed(engine, plan.name, tail) if follow else _lines(engine, plan.name, tail)
    with suppress(KeyboardInterrupt):
        for line in loglines.chosen(lines, wanted):
            shown = output.visible(line.raw) if raw else str(line)
            click.secho(shown, fg=None if raw else loglines.STYLES.get(line.level))


@click.command(cls=Command)
@click.argument("folders", type=click.Path(exists=True, file_okay=False, path_type=Path), nargs=-1)
@port_option
@wait_option
def watch(folders: tuple[Path, ...], port: int | None, wait: int) -> None:
    """Build the image and replace the container whenever runnerwsgi's own files change.

    A change in FOLDERS does the same. Where a build fails, the container that runs is left
    alone. Ctrl-C ends watching; the container stays up.
    """
    quiet_logs()
    plan, engine = _plan(port), Engine()
    watched = [*wheel.folders(), *folders]
    with suppress(KeyboardInterrupt):
        _started(engine, plan, _prepared(engine, plan, rebuild=True), wait)
        output.note(f"Watching {', '.join(map(str, watched))}; Ctrl-C ends it.")
        for changed in changes(watched):
            more = f" and {len(changed) - 1} more" if changed[1:] else ""
            output.note(f"{changed[0]}{more} changed.")
            try:
                _start(engine, _prepared(engine, plan, rebuild=True))
                _settle(engine, plan, wait)
            except RunnerError as exc:
                for line in output.error_lines(exc):
                    output.fault(line)
    output.note(f"No longer watching; {plan.name} stays up.")


@click.command(cls=Command)
@click.option("--env", "wants_env", is_flag=True, help="Print the lines that .env needs instead.")
def compose(wants_env: bool) -> None:
    """Print compose.yaml, and make the folders and the token that it mounts.

    `runnerwsgi docker compose > compose.yaml` and
    `runnerwsgi docker compose --env >> .env`: Compose reads both in the folder where it runs.
    """
    quiet_logs()
    plan = Plan.from_env(os.environ)
    plan.shared.prepare(plan.settings)
    click.echo(compose_file.environment(plan) if wants_env else compose_file.text(), nl=False)


def _absent(plan: Plan) -> ConfigurationError:
    return ConfigurationError(
        f"There is no container {plan.name}: start it with `runnerwsgi docker up`."
    )


def _plan(port: int | None) -> Plan:
    plan = Plan.from_env(os.environ)
    return plan if port is None else replace(plan, address=f"http://127.0.0.1:{port}")


def _prepared(engine: Engine, plan: Plan, *, rebuild: bool) -> Container:
    """The container to start, with its image built and its folders made."""
    life.find_ours(engine, plan.name, plan.shared.home)  # before anything is changed for it
    recipe = plan.recipe
    if rebuild or engine.inspect("image", recipe.tag) is None:
        with output.working(f"Building {recipe.tag} from {recipe.base}") as tell:
            image.build(engine, recipe, tell)
    plan.shared.prepare(plan.settings)
    return plan.container(engine)


def _started(engine: Engine, plan: Plan, wanted: Container, seconds: float) -> None:
    """Start it, unless it runs as wanted already; wait until it is ready."""
    found = engine.inspect("image", wanted.image)
    identity = str(found["Id"]) if found else ""
    if life.is_as_wanted(life.find(engine, wanted.name), wanted, identity):
        output.note(f"{wanted.name} is up already.")
    else:
        _start(engine, wanted)
    _settle(engine, plan, seconds)


def _start(engine: Engine, wanted: Container) -> None:
    """Start a new one, in the place of one that runs."""
    with output.working(f"Starting {wanted.name}"):
        life.start(engine, wanted)


def _settle(engine: Engine, plan: Plan, seconds: float) -> None:
    """Say what is open about it, and wait until it is ready."""
    for reason in plan.reasons_for_a_way_out():
        output.note(f"It has a way out, because {reason}.")
    _wait(engine, plan, seconds)


def _wait(engine: Engine, plan: Plan, seconds: float) -> None:
    began = time.monotonic()
    with (
        output.working(f"Waiting until {plan.address} can execute"),
        closing(plan.client()) as client,
    ):
        version = life.wait_until_ready(engine, plan.name, client, seconds)
    took = time.monotonic() - began
    output.note(f"{plan.name} is ready after {took:.1f} s: runnerwsgi {version}, {plan.address}")


def _tell_environment(plan: Plan) -> None:
    told = plan.environment()
    if wants_json():
        output.print_json({"container": plan.name, "address": plan.address, "environment": told})
        return
    more = ", with the RUNNER_SERVICE_TOKEN that is set here"
    output.note(f"For the application{more if plan.env.get('RUNNER_SERVICE_TOKEN') else ''}:")
    for name, value in told.items():
        output.say(f"export {name}={shlex.quote(value)}")


def _lines(
    engine: Engine, name: str, tail: int | None, follow: bool = False, since: float | None = None
) -> Iterator[str]:
    options = ["--follow"] if follow else []
    options += [f"--tail={tail}"] if tail is not None else []
    options += [f"--since={since:.3f}"] if since is not None else []
    return engine.lines("container", "logs", *options, name)


def _followed(engine: Engine, name: str, tail: int | None) -> Iterator[str]:
    """The lines of one container after another of this name, for as long as somebody reads."""
    yield from _lines(engine, name, tail, follow=True)
    while True:
        ended = time.time()
        while (found := life.find(engine, name)) is None or found.state != "running":
            time.sleep(_RETRY_SECONDS)
        yield from _lines(engine, name, None, follow=True, since=ended)
