"""`serve MODULE:APP`: a WSGI application with its extensions, under waitress."""

from __future__ import annotations

import os
import re
import sys
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runnerwsgi import logs
from runnerwsgi.access import identify_nobody
from runnerwsgi.errors import ConfigurationError
from runnerwsgi.middleware import RunnerMiddleware
from runnerwsgi.settings import Settings

from . import output
from .command import Command, wants_debug
from .installs import page_url
from .listener import Listener, threads_option

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from runnerwsgi.access import Identify

DEFAULT_THREADS = 8
# What requests get to finish in when the server is told to end.
GRACE_SECONDS = 5.0
_TARGET = re.compile(r"(?P<module>[^:]+?)(?::(?P<name>[A-Za-z_][\w.]*)(?P<call>\(\))?)?")
_USUAL_NAMES = ("application", "app")


@dataclass(frozen=True, slots=True)
class Wrapped:
    """An application with extensions: ``app`` is served, ``middleware`` is somewhere in it."""

    app: WSGIApplication
    middleware: RunnerMiddleware


@click.command(cls=Command)
@click.argument("target", metavar="MODULE:APP")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 for a free one.",
)
@threads_option(DEFAULT_THREADS)
@click.option(
    "--identify",
    metavar="MODULE:FUNCTION",
    help="Says who calls, from a request's environ; for an application that is not wrapped yet.",
)
def serve(target: str, host: str, port: int, threads: int, identify: str | None) -> None:
    """Serve a WSGI application with its extensions.

    MODULE is importable from here, or the path of a file; APP may be a factory, such as
    `shop:create_app()`. An application that has a RunnerMiddleware already gets no second one.
    """
    # An application that wraps itself reads the environment, and must count the same threads.
    os.environ["RUNNER_THREADS"] = str(threads)
    settings = Settings.from_env(os.environ)
    logs.configure(settings)
    wrapped = wrap(load(target), load(identify) if identify else None)
    with (
        closing(wrapped.middleware),
        Listener(wrapped.app, host, port, grace=GRACE_SECONDS, threads=threads) as listener,
    ):
        _announce(wrapped, listener.origin)
        listener.run()
    output.note("Stopped.")


def load(target: str) -> Any:
    """Import what `MODULE:NAME` names; call it where `()` follows.

    Raises:
        ConfigurationError: there is no such module or name, or importing it failed.
    """
    found = _TARGET.fullmatch(target)
    if found is None:
        raise click.UsageError(f"{target!r} is not MODULE:APP, such as app:application.")
    value = _import(found["module"])
    names = found["name"].split(".") if found["name"] else [_usual_name(value, target)]
    for name in names:
        if not hasattr(value, name):
            raise ConfigurationError(_no_such(value, name, target))
        value = getattr(value, name)
    return _called(value, target) if found["call"] else value


def _import(module: str) -> Any:
    name, folder = _located(module)
    # As a user's shell finds modules: from the folder one is in.
    for place in (str(folder), str(Path.cwd())):
        if place not in sys.path:
            sys.path.insert(0, place)
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name and name.startswith(exc.name):
            raise ConfigurationError(
                f"There is no module {exc.name} in {folder} or on the Python path. Name one that "
                "can be imported from here, or the path of a file."
            ) from exc
        raise ConfigurationError(
            f"{name} needs the module {exc.name}, which is not installed here: install it with pip."
        ) from exc
    except Exception as exc:
        raise _its_own_fault(exc, f"{name} could not be imported") from exc


def _located(module: str) -> tuple[str, Path]:
    """The dotted name of a module and the folder it is imported from."""
    path = Path(module)
    if path.suffix != ".py" and "/" not in module:
        return module, Path.cwd()
    if path.suffix != ".py":
        path = path.with_suffix(".py") if not path.is_dir() else path / "__init__.py"
    if not path.is_file():
        raise ConfigurationError(f"{path} does not exist. Name a Python file or a module.")
    path = path.resolve()
    parts = [path.stem] if path.stem != "__init__" else []
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def _usual_name(module: Any, target: str) -> str:
    for name in _USUAL_NAMES:
        if hasattr(module, name):
            return name
    raise click.UsageError(
        f"{target} has neither `application` nor `app`: say which one is served, {target}:NAME."
    )


def _no_such(value: Any, name: str, target: str) -> str:
    public = [one for one in vars(value) if not one.startswith("_")] if vars(value) else []
    near = [one for one in public if "app" in one.lower()]
    hint = f" It has {', '.join(near)}." if near else ""
    return f"{target}: there is no {name} in {getattr(value, '__name__', value)}.{hint}"


def _called(factory: Any, target: str) -> Any:
    try:
        return factory()
    except Exception as exc:
        raise _its_own_fault(exc, f"{target} failed") from exc


def _its_own_fault(exc: Exception, what: str) -> Exception:
    """A failure of the application's code, in one line; the whole of it with `--debug`."""
    if wants_debug() or isinstance(exc, ConfigurationError):
        return exc
    return ConfigurationError(f"{what}: {type(exc).__name__}: {exc}. --debug shows where.")


def wrap(app: Any, identify: Identify | None) -> Wrapped:
    """Wrap *app*, unless it is a RunnerMiddleware or, as Flask's do, holds one."""
    if not callable(app):
        raise ConfigurationError(
            f"A WSGI application is called with environ and start_response; {type(app).__name__} "
            "cannot be called. Name the application itself."
        )
    for candidate in (app, getattr(app, "wsgi_app", None)):
        if isinstance(candidate, RunnerMiddleware):
            return Wrapped(app, candidate)
    middleware = RunnerMiddleware.from_env(app, identify=identify)
    return Wrapped(middleware, middleware)


def _announce(wrapped: Wrapped, where: str) -> None:
    settings = wrapped.middleware.settings
    output.say(f"Serving {where}/ with {settings.threads} threads; Ctrl-C stops it.")
    for install in wrapped.middleware.installs.list():
        if url := page_url(install, settings):
            page = url if "://" in url else where + url
            output.say(f"  {install.extension_id} for {install.tenant_id}: {page}")
    sys.stdout.flush()
    if wrapped.middleware.identify is identify_nobody:
        output.warn(
            "nobody says who calls, so every call of an extension's handler is answered 401. Pass "
            "identify= to RunnerMiddleware, or --identify here; on your own machine set "
            "RUNNER_IDENTITY=local."
        )
