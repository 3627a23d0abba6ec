"""`execute` and `health`: ask an extension or the backend from the command line."""

from __future__ import annotations

import base64
import logging
import os
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runnerwsgi.access import Principal
from runnerwsgi.errors import ConfigurationError
from runnerwsgi.headers import is_token, is_value
from runnerwsgi.hookspecs import hookimpl
from runnerwsgi.middleware import RunnerMiddleware
from runnerwsgi.parity import Sample, to_line
from runnerwsgi.protocol import METHODS, ExecuteResponse
from runnerwsgi.settings import Settings

from . import output
from .command import Command, json_option, quiet_logs, wants_debug, wants_json
from .installs import find, gateway_of, installs_of, tenant_option
from .terms import not_granted

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from runnerwsgi.errors import RunnerError
    from runnerwsgi.gateway import Gateway
    from runnerwsgi.installs import Install, Installs
    from runnerwsgi.protocol import ExecuteRequest

_PROBLEM = "application/problem+json"
_TEXT_TYPES = ("text/", "application/json", "application/problem+json", "application/xml")


class Observer(logging.Handler):
    """Sees what a browser never does: the backend's whole answer, and why a call was refused.

    It is a plugin beside the backend, and the one handler of the library's log records.
    """

    name = "command-line"

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.response: ExecuteResponse | None = None
        self.refusal: RunnerError | None = None

    @hookimpl(wrapper=True)
    def runner_execute(
        self, request: ExecuteRequest
    ) -> Generator[None, ExecuteResponse, ExecuteResponse]:
        """Keep the answer of a call, and pass it on."""
        self.response = yield
        return self.response

    def forget(self) -> None:
        """Be ready for another call."""
        self.response = self.refusal = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the error that the middleware answered with."""
        if isinstance(record.args, tuple) and record.args[:1] == ("refused",):
            self.refusal = dict(record.args[1])["error"]  # type: ignore[call-overload]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep the library's records off the terminal: the command prints what they say."""
        logger = logging.getLogger("runnerwsgi")
        before = logger.handlers[:], logger.propagate, logger.level
        logger.handlers, logger.propagate = [self], False
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.handlers, logger.propagate = before[:2]
            logger.setLevel(before[2])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a browser would have got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def content_type(self) -> str:
        """The media type, without parameters."""
        found = next((value for name, value in self.headers if name.lower() == "content-type"), "")
        return found.partition(";")[0].strip()


def parse_headers(
    ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> list[tuple[str, str]]:
    """``--header "Name: value"``."""
    found = []
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not is_token(name) or not is_value(value.strip()):
            raise click.BadParameter('write "Name: value".', param_hint="--header")
        found.append((name, value.strip()))
    return found


def parse_data(ctx: click.Context, param: click.Parameter, text: str | None) -> bytes | None:
    """``--data TEXT``, ``--data @FILE``, ``--data -`` for standard input."""
    if text is None:
        return None
    if text == "-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return text.encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"--data {text}: {exc.strerror}.") from exc


@click.command(cls=Command)
@click.argument("extension")
@click.argument("method", type=click.Choice(METHODS, case_sensitive=False), metavar="METHOD")
@click.argument("path")
@click.option(
    "--data",
    callback=parse_data,
    metavar="TEXT",
    help="The request's body; @FILE reads a file, - standard input.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    callback=parse_headers,
    metavar='"NAME: VALUE"',
    help="A request header.",
)
@tenant_option
@click.option("--user", default="local", show_default=True, help="Who calls; empty for nobody.")
@click.option("--role", "roles", multiple=True, help="A role of the caller, such as admin.")
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also append the request to FILE, for `runnerwsgi parity`.",
)
@json_option
@click.pass_context
def execute(
    ctx: click.Context,
    extension: str,
    method: str,
    path: str,
    data: bytes | None,
    headers: list[tuple[str, str]],
    tenant: str,
    user: str,
    roles: tuple[str, ...],
    record: Path | None,
) -> None:
    """Call the handler of EXTENSION, as the application's pages would.

    Prints status, headers and body, the extension's log lines, and where the time went. Exit
    status 1 when the extension failed or was not asked; an answer of 4xx is its own to give.
    """
    if not path.startswith("/"):
        raise click.BadParameter("a path begins with a slash, such as /hello.", param_hint="PATH")
    settings = Settings.from_env(os.environ)
    sample = Sample(method.upper(), path, tuple(headers), data, user, roles)
    observer = Observer()
    with observer.listening(), installs_of(settings) as known:
        install = find(known, tenant, extension)
        with (
            gateway_of(settings, observer) as gateway,
            closing(Caller(gateway, known, settings, install)) as caller,
        ):
            answer = caller.call(sample)
    if record:
        with record.open("a", encoding="utf-8") as file:
            file.write(f"{to_line(sample)}\n")
    (_print_json if wants_json() else _print)(answer, observer)
    if answer.status >= 500:
        for concern in not_granted(install):
            output.warn(concern)
    if answer.status >= 500 or observer.refusal is not None:
        ctx.exit(1)


class Caller:
    """Sends requests to one extension through a middleware, in process, one after the other.

    Args:
        gateway: runs the calls.
        installs: has *install*.
        settings: of the middleware.
        install: of the extension, for the tenant that calls.
    """

    def __init__(
        self, gateway: Gateway, installs: Installs, settings: Settings, install: Install
    ) -> None:
        self._tenant = install.tenant_id
        self._mount = f"{settings.execute_mount}/{install.extension_id}"
        self._principal: Principal | None = None
        self._middleware = RunnerMiddleware(
            _nothing,
            gateway,
            identify=lambda _: self._principal,
            installs=installs,
            settings=settings,
        )
        self.questions = self._middleware.questions

    def call(self, sample: Sample) -> Answer:
        """Send one request, as its user."""
        from werkzeug.test import EnvironBuilder, run_wsgi_app

        self._principal = Principal(
            self._tenant,
            sample.user or None,
            frozenset(sample.roles),
            user_name=sample.user,
            credential="bearer",
        )
        builder = EnvironBuilder(
            path=self._mount + sample.path,
            method=sample.method,
            headers=list(sample.headers),
            data=sample.body,
        )
        with closing(builder):
            environ = builder.get_environ()
            if sample.body is not None:  # an empty one is one, too, which the builder does not know
                environ["CONTENT_LENGTH"] = str(len(sample.body))
            body, status, found = run_wsgi_app(self._middleware, environ, buffered=True)
        return Answer(int(status.split()[0]), list(found), b"".join(body))

    def close(self) -> None:
        """Close the middleware."""
        self._middleware.close()


def _nothing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The application around the extension: an empty one."""
    start_response("404 Not Found", [("Content-Length", "0")])
    return []


def _print(answer: Answer, observer: Observer) -> None:
    output.say(f"{answer.status} {_phrase(answer.status)}")
    for name, value in answer.headers:
        output.say(f"{name.lower()}: {output.visible(value)}")
    output.say()
    _print_body(answer)
    if observer.response is not None:
        _print_inside(observer.response)
    if observer.refusal is not None:
        _print_refusal(observer.refusal, bool(observer.response and observer.response.logs))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _print_body(answer: Answer) -> None:
    if not answer.body or answer.content_type == _PROBLEM:
        return  # what a problem says is told in the last line
    text = _text(answer)
    if text is None:
        output.say(f"({output.size(len(answer.body))} of {answer.content_type})")
    else:
        output.say(output.visible(text.removesuffix("\n")))


def _text(answer: Answer) -> str | None:
    """The body as text; None where it is none."""
    try:
        text = answer.body.decode()
    except UnicodeDecodeError:
        return None
    return text if answer.content_type.startswith(_TEXT_TYPES) or text.isprintable() else None


def _print_inside(response: ExecuteResponse) -> None:
    if response.logs or response.timings:
        output.say()
    for line in response.logs:
        output.say(f"log {line.level:5}  {output.visible(line.message)}")
    if response.timings:
        spent = (f"{name} {value:.1f} ms" for name, value in response.timings.items())
        output.say(f"time       {' · '.join(spent)}")


def _print_refusal(refusal: RunnerError, logged: bool) -> None:
    """One line on stderr; with `--debug`, a trap's frames before it."""
    *frames, last = output.visible(str(refusal)).strip().splitlines()
    for line in frames if wants_debug() else ():
        output.say(f"trap       {line.strip()}")
    hint = " Its log is above." if frames and logged else ""
    if refusal.idempotency_key:
        hint = f" To ask again: --header 'Idempotency-Key: {refusal.idempotency_key}'."
    output.fault(f"{refusal.title}: {last.strip()} ({refusal.status}, {refusal.code}).{hint}")


def _print_json(answer: Answer, observer: Observer) -> None:
    response, text = observer.response, _text(answer)
    body: dict[str, Any] = (
        {"body": text}
        if text is not None
        else {"body_b64": base64.b64encode(answer.body).decode("ascii")}
    )
    output.print_json(
        {
            "status": answer.status,
            "headers": [[name.lower(), value] for name, value in answer.headers],
            **body,
            "outcome": response and response.outcome,
            "error": observer.refusal and str(observer.refusal),
            "logs": [
                {"level": line.level, "message": line.message}
                for line in (response.logs if response else ())
            ],
            "timings_ms": dict(response.timings) if response else {},
        }
    )


@click.command(cls=Command)
@json_option
@click.pass_context
def health(ctx: click.Context) -> None:
    """Say how the backend is. Exit status 1 when it is unavailable."""
    quiet_logs()
    settings = Settings.from_env(os.environ)
    with gateway_of(settings) as gateway:
        found = gateway.health()
    if wants_json():
        fields = {"backend": settings.backend, "status": found.status, "checks": {**found.checks}}
        output.print_json(fields)
    else:
        output.say(f"{settings.backend}: {found.status}")
        for name, text in found.checks.items():
            output.say(f"  {name:10} {output.visible(text)}")
    if found.status == "unavailable":
        ctx.exit(1)
