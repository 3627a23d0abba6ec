"""`switch`: change the backend of running applications, or change nothing and say why."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

import click

from runnerwsgi.database import Database
from runnerwsgi.errors import ConfigurationError, RunnerError
from runnerwsgi.settings import Settings
from runnerwsgi.switch import LOOK_S, load
from runnerwsgi.switchboard import Process, Switchboard

from . import output
from .command import Command, json_option, quiet_logs, wants_json

POLL_S = 0.1
# Who has not noticed by then is not called at the moment.
IDLE_S = 3 * LOOK_S


@click.command(cls=Command)
@click.argument("backend", required=False)
@click.option("--reset", is_flag=True, help="Back to what each application's RUNNER_BACKEND says.")
@click.option(
    "--timeout",
    type=click.FloatRange(1, 600),
    default=30.0,
    show_default=True,
    help="Seconds that the processes have.",
)
@json_option
def switch(backend: str | None, reset: bool, timeout: float) -> None:
    """Change the backend of the running application, without a restart.

    Meant are all processes on this machine that use the same database as this command. Each
    one builds the new backend, has it execute something, and only then changes; where one of
    them cannot, all go back and the exit status is 1. A process that is not called at the
    moment changes at its next call. The switch lasts, restarts included, until --reset, or
    until the application's RUNNER_BACKEND names another backend.

    Without BACKEND it lists the processes and what they use.
    """
    quiet_logs()
    if backend and reset:
        raise click.UsageError("Give a BACKEND or --reset, not both.")
    settings = Settings.from_env(os.environ)
    with _switchboard(settings) as switchboard:
        if backend or reset:
            change(switchboard, settings, backend, timeout)
        else:
            show(switchboard, settings)


def switches_of(settings: Settings) -> dict[str, str]:
    """The switches that were made, for other commands; none where there is no database."""
    if not Database(settings.database_url).exists():
        return {}
    with _switchboard(settings) as switchboard:
        return switchboard.switches()


def told(configured: str, backend: str) -> str:
    """A switch in one line."""
    return (
        f"Where RUNNER_BACKEND says {configured}, applications on this machine use {backend}: "
        "`runnerwsgi switch --reset` ends that."
    )


@contextmanager
def _switchboard(settings: Settings) -> Iterator[Switchboard]:
    database = Database(settings.database_url)
    try:
        yield Switchboard(database)
    finally:
        database.close()


def show(switchboard: Switchboard, settings: Settings) -> None:
    """Print the processes and the switches that were made."""
    processes, switches = switchboard.processes(), switchboard.switches()
    if wants_json():
        shown = [_fields(process) for process in processes]
        output.print_json({"processes": shown, "switches": switches})
        return
    _print(processes, switches)
    for configured, backend in switches.items():
        output.say(told(configured, backend))
    if not processes:
        output.say(_nobody(settings))


def change(
    switchboard: Switchboard, settings: Settings, backend: str | None, timeout: float
) -> None:
    """Wish *backend*, None for what is configured, and wait until it is used or refused.

    Raises:
        ConfigurationError: a process cannot change, or refused; all are as they were.
        RunnerError: the backend does not answer; nothing was asked of anybody.
    """
    processes, before = switchboard.processes(), switchboard.switches()
    concerned = {process.configured for process in processes} or {settings.backend}
    if backend is None:
        concerned |= before.keys()
    wishes = {configured: backend or configured for configured in concerned}
    if fixed := [one for one in processes if one.state == "fixed" and one.backend != backend]:
        raise ConfigurationError(_refusals("cannot change its backend", fixed))
    for wished in sorted(set(wishes.values())):
        probe(settings, wished)
    number = switchboard.wish(wishes)
    try:
        processes = wait(switchboard, number, timeout)
    except BaseException:
        undo(switchboard, number, {name: before.get(name, name) for name in concerned}, timeout)
        raise
    idle = [process for process in processes if process.number < number]
    _tell(processes, idle, wishes, settings)


def probe(settings: Settings, backend: str) -> None:
    """Build a backend here and have it execute something.

    Raises:
        ConfigurationError: it cannot be built.
        RunnerError: it does not answer as it should.
    """
    try:
        with (
            output.working(f"Trying {backend}"),
            load(settings, os.environ, backend) as gateway,
        ):
            gateway.probe()
    except RunnerError:
        output.note(f"{backend} cannot be used, and nothing has changed:")
        raise


def wait(switchboard: Switchboard, number: int, timeout: float) -> tuple[Process, ...]:
    """Wait for the processes; gives back how they are at the end.

    Raises:
        ConfigurationError: one refused or is not ready in time, or somebody wished otherwise.
    """
    began = time.monotonic()
    with output.working("Waiting for the processes"):
        while True:
            if switchboard.number() != number:
                raise ConfigurationError("Somebody else has switched meanwhile: look again.")
            processes = switchboard.processes()
            if refused := [one for one in processes if _has_refused(one, number)]:
                raise ConfigurationError(_refusals("refused, and nothing has changed", refused))
            waited = time.monotonic() - began
            if not any(_is_awaited(one, number, waited) for one in processes):
                return processes
            if waited > timeout:
                late = [one for one in processes if _is_awaited(one, number, 0)]
                raise ConfigurationError(_late(late, timeout))
            time.sleep(POLL_S)


def undo(switchboard: Switchboard, number: int, wishes: Mapping[str, str], timeout: float) -> None:
    """Wish what was wished before, and give those who had changed the time to go back."""
    if switchboard.number() != number:
        return  # somebody else's wish is the one that counts
    number = switchboard.wish(wishes)
    began = time.monotonic()
    while time.monotonic() - began < timeout:
        waited = time.monotonic() - began
        if not any(_is_awaited(one, number, waited) for one in switchboard.processes()):
            return
        time.sleep(POLL_S)


def _has_refused(process: Process, number: int) -> bool:
    return process.number >= number and process.state == "refused"


def _is_awaited(process: Process, number: int, waited: float) -> bool:
    """Whether a process is at work, or has not had the time to notice."""
    if process.number >= number:
        return process.state == "changing"
    return waited < IDLE_S


def _refusals(what: str, processes: Iterable[Process]) -> str:
    lines = [f"The process {one.pid} {what}: {one.error}" for one in processes]
    return "\n".join(dict.fromkeys(lines))


def _late(processes: Iterable[Process], timeout: float) -> str:
    pids = ", ".join(str(one.pid) for one in processes)
    return (
        f"Not ready after {timeout:g} seconds: the processes {pids}. All were told to go back; "
        "their logs say what keeps them, --timeout gives more time."
    )


def _nobody(settings: Settings) -> str:
    return (
        f"No process that uses {Database(settings.database_url).where} has answered an "
        "extension's call yet."
    )


def _tell(
    processes: tuple[Process, ...],
    idle: list[Process],
    wishes: Mapping[str, str],
    settings: Settings,
) -> None:
    if wants_json():
        shown = [{**_fields(one), "idle": one in idle} for one in processes]
        output.print_json({"switches": wishes, "processes": shown})
        return
    if processes:
        _print(processes, wishes, idle)
    else:
        output.say(_nobody(settings))
        for configured, backend in wishes.items():
            output.say(f"Those where RUNNER_BACKEND says {configured} will begin with {backend}.")


def _print(
    processes: Iterable[Process], wishes: Mapping[str, str], idle: Iterable[Process] = ()
) -> None:
    rows = [
        (
            one.pid,
            one.configured,
            one.backend,
            _state(one, wishes.get(one.configured, one.configured), one in idle),
        )
        for one in processes
    ]
    if rows:
        output.print_table(("process", "RUNNER_BACKEND", "uses", "state"), rows)


def _state(process: Process, wished: str, is_idle: bool) -> str:
    if process.state in ("fixed", "refused"):
        return f"{process.state}: {process.error}"
    if process.backend != wished and (is_idle or process.state == "settled"):
        return f"idle: changes to {wished} at its next call"
    return process.state


def _fields(process: Process) -> dict[str, object]:
    shown = asdict(process)
    return {name: shown[name] for name in ("pid", "configured", "backend", "state", "error")}
