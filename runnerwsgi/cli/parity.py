"""`parity`: whether an extension answers alike on several backends."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runnerwsgi.database import Database
from runnerwsgi.errors import ConfigurationError
from runnerwsgi.gateway import Gateway
from runnerwsgi.installs import Installs
from runnerwsgi.manifest import Manifest
from runnerwsgi.parity import (
    FILE,
    Difference,
    Sample,
    Seen,
    differences,
    generated,
    read_samples,
    varying,
)
from runnerwsgi.protocol import Bundle
from runnerwsgi.settings import Settings

from . import output
from .calls import Caller, Observer
from .command import Command, json_option, wants_json
from .installs import find, installs_of, tenant_option
from .questions import answering, parse_place

if TYPE_CHECKING:
    from runnerwsgi.installs import Install
    from runnerwsgi.origins import Origin

MAX_CELL = 60
# A guest that asks back at the application's address would find the application's own data.
CALLBACK_BASE = "RUNNER_CALLBACK_BASE"


def parse_backends(ctx: click.Context, param: click.Parameter, text: str) -> tuple[str, ...]:
    """``--backends wasm,docker``: the first is what the others are compared with."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if len(names) < 2 or len(set(names)) < len(names):
        raise click.BadParameter("name two or more backends, each once, such as wasm,docker.")
    return names


@click.command(cls=Command)
@click.argument("extension")
@click.option(
    "--backends",
    required=True,
    callback=parse_backends,
    metavar="NAME,NAME…",
    help="The backends; the first is what the others are compared with.",
)
@click.option(
    "--requests",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Recorded requests, one JSON object a line; {FILE} in an extension's folder is found.",
)
@click.option("--recorded-only", is_flag=True, help="Try no generated requests.")
@click.option(
    "--answer-at",
    "place",
    callback=parse_place,
    metavar="ADDRESS:PORT",
    help="Listen there for guests that ask back, such as pods; an address that they reach.",
)
@tenant_option
@json_option
@click.pass_context
def parity(
    ctx: click.Context,
    extension: str,
    backends: tuple[str, ...],
    path: Path | None,
    recorded_only: bool,
    place: Origin | None,
    tenant: str,
) -> None:
    """Compare how EXTENSION, its id or its folder, answers on several backends.

    Sends recorded requests, and such as its manifest suggests, to each backend in turn and
    compares status, outcome, headers, body and log lines. The install is the tenant's; what is
    stored goes to a database of its own that is thrown away. What the extension sends out with
    http.fetch is really sent, and plugins are really asked. What differs each time by itself,
    such as times and new ids, is found out by asking the first backend twice, and left out.
    Exit status 1 when there are differences.
    """
    settings = Settings.from_env(os.environ)
    name, path = _located(extension, path)
    recorded = read_samples(path) if path else []
    with installs_of(settings) as known:
        install = find(known, tenant, name)
        samples = [*recorded, *(() if recorded_only else generated(install.manifest))]
        if not samples:
            raise ConfigurationError(
                "There is nothing to compare: name a file of requests with --requests, or leave "
                "--recorded-only out."
            )
        runs = [
            _tried(backend, samples, install, known, settings, place)
            for backend in (*backends, backends[0])
        ]
    labels = list(_labels(samples))
    found = list(_compared(labels, backends, runs))
    _report(name, backends, labels, found, _moving(labels, runs))
    if found:
        ctx.exit(1)


def _located(extension: str, path: Path | None) -> tuple[str, Path | None]:
    """The extension's id, and the file of recorded requests."""
    folder = Path(extension)
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return extension, path
    name = Manifest.from_json(manifest.read_bytes()).name
    return name, path or (folder / FILE if (folder / FILE).is_file() else None)


def _tried(
    backend: str,
    samples: Sequence[Sample],
    install: Install,
    known: Installs,
    settings: Settings,
    place: Origin | None,
) -> list[Seen]:
    """What one backend answers to every request, beginning with nothing stored."""
    observer, kept, seen = Observer(), dict[str, str](), []
    with (
        output.working(f"Asking {backend}"),
        observer.listening(),
        _scratch(install, known) as installs,
        _gateway(backend, settings, observer, place) as gateway,
        closing(Caller(gateway, installs, settings, install)) as caller,
        answering(caller.questions, place) if place else nullcontext(),
    ):
        gateway.warm_up(Bundle(install.tenant_id, install.extension_id, install.content_hash))
        for sample in samples:
            answer, body = _seen(caller, observer, sample.filled(kept))
            kept |= sample.kept(body)
            seen.append(answer)
    return seen


@contextmanager
def _scratch(install: Install, known: Installs) -> Iterator[Installs]:
    """A database with this install alone, and nothing stored; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="runnerwsgi-parity-") as folder:
        database = Database(f"sqlite:///{folder}/parity.db")
        with closing(Installs(database, known.vault)) as scratch:
            known.copy(install, scratch)
            yield scratch


@contextmanager
def _gateway(
    backend: str, settings: Settings, observer: Observer, place: Origin | None
) -> Iterator[Gateway]:
    env = {**os.environ, "RUNNER_BACKEND": backend}
    if place:
        env[CALLBACK_BASE] = str(place)
    elif not env.get(CALLBACK_BASE, "unix:").startswith("unix:"):
        del env[CALLBACK_BASE]
    with Gateway.load(replace(settings, backend=backend), env, observer) as gateway:
        gateway.probe()  # one error that says why, rather than a table full of it
        yield gateway


def _seen(caller: Caller, observer: Observer, sample: Sample) -> tuple[Seen, bytes | None]:
    """What comes back of a request, as it is compared, and the answer's body."""
    observer.forget()
    answer = caller.call(sample)
    response, refusal = observer.response, observer.refusal
    request_id = dict(answer.headers)["X-Request-Id"]
    seen = Seen.of(answer.status, refusal.code if refusal else None, response, request_id)
    return seen, response.body if response else None


def _labels(samples: Iterable[Sample]) -> Iterator[str]:
    """How each request is shown; one that comes again is numbered."""
    seen: Counter[str] = Counter()
    for sample in samples:
        seen[sample.label] += 1
        count = seen[sample.label]
        yield sample.label if count == 1 else f"{sample.label} [{count}]"


def _compared(
    labels: Sequence[str], backends: Sequence[str], runs: Sequence[Sequence[Seen]]
) -> Iterator[Difference]:
    first, *others, again = runs
    for number, label in enumerate(labels):
        for backend, seen in zip(backends[1:], others, strict=True):
            yield from differences(label, backend, first[number], seen[number], again[number])


def _moving(labels: Sequence[str], runs: Sequence[Sequence[Seen]]) -> Mapping[str, list[str]]:
    """What is not compared, by request: it changes by itself."""
    pairs = zip(labels, runs[0], runs[-1], strict=True)
    found = {label: sorted(varying(first, again)) for label, first, again in pairs}
    return {label: names for label, names in found.items() if names}


def _report(
    extension: str,
    backends: Sequence[str],
    labels: Sequence[str],
    found: Sequence[Difference],
    moving: Mapping[str, list[str]],
) -> None:
    if wants_json():
        output.print_json(
            {
                "extension": extension,
                "backends": list(backends),
                "requests": list(labels),
                "differences": [asdict(each) for each in found],
                "varying": moving,
            }
        )
        return
    if found:
        rows = (
            (each.request, each.field, _cell(each.expected), each.backend, _cell(each.found))
            for each in found
        )
        output.print_table(("request", "differs in", backends[0], "backend", "there"), rows)
    if moving:
        count = output.counted(sum(map(len, moving.values())), "value")
        output.note(f"Not compared: {count} of another content each time; --json names them.")
    told = output.counted(len(found), "difference") if found else "no difference"
    tried = output.counted(len(labels), "request")
    names = f"{', '.join(backends[:-1])} and {backends[-1]}"
    output.say(f"{extension} on {names}: {told} in {tried}.")


def _cell(text: str | None) -> Any:
    if text is None:
        return "(nothing)"
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"
