"""Gateway: a typed façade over one plugin manager."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import NoneType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

import pluggy

from . import canary, discovery, hookspecs
from .errors import (
    BadRunnerResponse,
    BundleUnavailable,
    ConfigurationError,
    Forbidden,
    IdentityUnavailable,
    RunnerError,
)
from .protocol import (
    OUTCOMES,
    Bundle,
    ExecuteRequest,
    ExecuteResponse,
    Finding,
    Health,
    UiAsset,
    WarmUp,
)
from .settings import SETTINGS, Settings, read, warn_of_unknown

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .access import Principal
    from .installs import Install

log = logging.getLogger(__name__)

REQUIRED_HOOKS = ("runner_execute", "runner_resolve_ui_url", "runner_health")
# What a response's fields must be: a stranger's mistake is told, and not passed on to a server.
_RESPONSE_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "status": ((int,), "an integer from 200 to 599"),
    "headers": ((tuple, list), "a tuple of (name, value) pairs"),
    "body": ((bytes, NoneType), "bytes, or None for no body"),
    "error": ((str, NoneType), "a string, or None"),
}
_BACKEND_HOOKS = (*REQUIRED_HOOKS, "runner_warm_up")

T = TypeVar("T")


class Pages(Protocol):
    """Where the pages of extensions are; the middleware brings it."""

    def url(self, extension_id: str, path: str, environ: WSGIEnvironment | None) -> str:
        """The public URL of an extension's page."""
        ...


class Gateway:
    """One backend and any number of observers, behind typed methods.

    Every error that leaves it is a :class:`~runnerwsgi.errors.RunnerError` and names the
    plugin it came from.

    Example::

        with Gateway(MyBackend()) as gateway:
            gateway.execute(request).status

    Args:
        backend: an object that implements the three required hooks.
        plugins: further plugin objects: observers, authorisers, providers of capabilities.
        names: what backend and plugins are called in answers, messages and logs, in their
            order; who has none there goes by its ``name`` attribute, or its class's.

    Raises:
        ConfigurationError: a plugin is a class, misspells a hook, or lacks a required one.
    """

    def __init__(self, backend: object, *plugins: object, names: Sequence[str] = ()) -> None:
        found = (backend, *plugins)
        called = (*names, *(_name_of(plugin) for plugin in found[len(names) :]))
        self.backend_name = called[0]
        self._manager = _new_manager()
        self._pages: Pages | None = None
        self._successor: Callable[[], Gateway] | None = None
        # The backend goes first: pluggy asks the last one registered first, so observers wrap it.
        for plugin, name in zip(found, called, strict=True):
            self._register(plugin, name)
        self._check_hooks(backend)
        self.capabilities: Mapping[str, Mapping[str, Callable[..., Any]]] = self._capabilities()

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """The gateway that an environment describes; ``os.environ`` by default.

        Raises:
            ConfigurationError: with every fault of settings and plugins, told together.
        """
        return cls.configure(os.environ if env is None else env)[1]

    @classmethod
    def configure(cls, env: Mapping[str, str]) -> tuple[Settings, Self]:
        """The settings and the gateway of an environment.

        Raises:
            ConfigurationError: with every fault of settings and plugins, told together.
        """
        try:
            settings = Settings.from_env(env)
        except ConfigurationError as exc:
            _, more = _load_plugins(_named(env), env)
            # A plugin that reads the same variable finds the same fault.
            raise ConfigurationError(faults=tuple(dict.fromkeys((*exc.faults, *more)))) from None
        return settings, cls.load(settings, env)

    @classmethod
    def load(cls, settings: Settings, env: Mapping[str, str], *plugins: object) -> Self:
        """The gateway of checked settings; plugins read their own variables from *env*.

        Args:
            settings: name the backend and the plugins.
            env: handed to each plugin's factory.
            plugins: further plugin objects, after those that the settings name.

        Raises:
            ConfigurationError: with every plugin that cannot be loaded.
        """
        warn_of_unknown(env, discovery.installed())
        named = [("RUNNER_BACKEND", settings.backend)]
        named += [("RUNNER_PLUGINS", name) for name in settings.plugins]
        loaded, faults = _load_plugins(named, env)
        if faults:
            raise ConfigurationError(faults=tuple(faults))
        return cls(*loaded, *plugins, names=[name for _, name in named])

    @property
    def plugin_names(self) -> tuple[str, ...]:
        """The names of all plugins, the backend first."""
        return tuple(name for name, _ in self._manager.list_name_plugin())

    def execute(self, request: ExecuteRequest) -> ExecuteResponse:
        """Run one handler call.

        Raises:
            RunnerError: the backend could not ask the guest; what the guest did wrong is the
                response's ``outcome`` instead.
        """
        response = self._ask("runner_execute", ExecuteResponse, request=request)
        if fault := _fault(response):
            raise BadRunnerResponse(f"{self.backend_name}: runner_execute answered with {fault}")
        return response

    def resolve_ui_url(self, asset: UiAsset) -> str:
        """Where the bytes of a UI file are: internal; the public address is :meth:`ui_url`."""
        return self._ask("runner_resolve_ui_url", str, asset=asset)

    def health(self) -> Health:
        """How the backend is. A health hook that raises is itself an answer: unavailable."""
        try:
            return self._ask("runner_health", Health)
        except RunnerError as exc:
            return Health("unavailable", {"backend": str(exc)})

    def probe(self, timeout_ms: int = 5000) -> bool:
        """Have the backend really execute something: the canary, which our runners have.

        Returns:
            Whether it was executed; False where the runner was reached and has no canary.

        Raises:
            RunnerError: the backend cannot be asked, or its answer is not the canary's.
        """
        nonce = os.urandom(16).hex()
        try:
            response = self.execute(canary.call(nonce, timeout_ms))
        except BundleUnavailable:
            return False
        return canary.check(response, nonce)

    def warm_up(self, bundle: Bundle) -> WarmUp:
        """Make a bundle ready ahead of its first call; nothing where the backend needs nothing."""
        if self._successor is not None:
            return self._successor().warm_up(bundle)
        if not self._manager.hook.runner_warm_up.get_hookimpls():
            return WarmUp(compiled=False, ms=0)
        return self._ask("runner_warm_up", WarmUp, bundle=bundle)

    def authorize(self, principal: Principal, install: Install, method: str, path: str) -> None:
        """Ask every plugin that authorises; one denial denies.

        Raises:
            Forbidden: somebody denied.
            IdentityUnavailable: somebody raised, or answered neither True, False nor None.
        """
        try:
            answers = self._manager.hook.runner_authorize(
                principal=principal, install=install, method=method, path=path
            )
        except Exception as exc:
            raise IdentityUnavailable(
                f"{self._culprit(exc)}: runner_authorize raised {exc!r}"
            ) from exc
        if self._successor is not None:
            # Looked at afterwards: no answer of a closed gateway's may pass for consent.
            self._successor().authorize(principal, install, method, path)
        if any(answer is False for answer in answers):
            raise Forbidden("a plugin denied the call")
        if any(answer is not True for answer in answers):
            raise IdentityUnavailable("runner_authorize must return True, False or None")

    def metadata(self) -> dict[str, Mapping[str, Any]]:
        """What each plugin says of itself, by plugin name."""
        if self._successor is not None:
            return self._successor().metadata()
        found: dict[str, Mapping[str, Any]] = {}
        for name, ask in _each(self._manager, "runner_metadata"):
            try:
                found[name] = ask()
            except Exception as exc:
                # Said of one plugin; it must not hide what the others say.
                found[name] = {"error": f"runner_metadata raised {type(exc).__name__}: {exc}"}
        return found

    def findings(self) -> list[Finding]:
        """What each plugin found when it looked at its own set-up, now; for `doctor`."""
        if self._successor is not None:
            return self._successor().findings()
        looks = _each(self._manager, "runner_findings")
        return [found for name, look in looks for found in _findings(name, look)]

    def ui_url(
        self, extension: str, path: str = "/", environ: WSGIEnvironment | None = None
    ) -> str:
        """The public address of an extension's page, for an ``src`` attribute.

        Args:
            extension: the extension's id.
            path: what the page gets as its own path.
            environ: the request's, so that the caller's version and ``SCRIPT_NAME`` are used.

        Raises:
            NotFound: not installed for the caller.
            ConfigurationError: no RunnerMiddleware serves this gateway, or tenants have
                different versions and *environ* is missing.
        """
        if self._pages is None:
            raise ConfigurationError("ui_url needs a RunnerMiddleware around the application.")
        return self._pages.url(extension, path, environ)

    def serve_pages(self, pages: Pages) -> None:
        """Tell the gateway where pages are; the middleware does, once."""
        self._pages = pages

    def close(self) -> None:
        """Let every plugin release what it opened, whatever another raises. Safe to call twice."""
        closing, self._manager = self._manager, _new_manager()
        for name, close in reversed(list(_each(closing, "runner_close"))):
            try:
                close()
            except Exception:
                log.exception("%s: runner_close failed", name)

    def hand_over(self, current: Callable[[], Gateway]) -> None:
        """Close, and pass whatever is still asked of this object to the gateway in use then.

        An application may have kept it from an earlier request's environ.

        Args:
            current: gives the gateway that is in use when it is called.
        """
        self._successor = current
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, hook: str, expected: type[T], **arguments: Any) -> T:
        try:
            answer = getattr(self._manager.hook, hook)(**arguments)
        except RunnerError:
            raise
        except Exception as exc:
            raise BadRunnerResponse(
                f"{self._culprit(exc)}: {hook} raised {type(exc).__name__}: {exc}"
            ) from exc
        if answer is None and self._successor is not None:
            return self._successor()._ask(hook, expected, **arguments)
        if not isinstance(answer, expected):
            raise BadRunnerResponse(
                f"{self._answering(hook)}: {hook} returned {type(answer).__name__}; "
                f"expected {expected.__name__}"
            )
        return answer

    def _answering(self, hook: str) -> str:
        """Who may have given a hook's answer: the backend, or an observer around it."""
        impls = getattr(self._manager.hook, hook).get_hookimpls()
        around = (impl.plugin_name for impl in impls if impl.wrapper or impl.hookwrapper)
        return " or ".join((self.backend_name, *around))

    def _register(self, plugin: object, name: str) -> None:
        if isinstance(plugin, type):
            raise ConfigurationError(
                f"{plugin.__name__} is a class; pass an instance: {plugin.__name__}()."
            )
        if self._manager.has_plugin(name):
            raise ConfigurationError(
                f"two plugins are called {name}: give each object a `name` of its own."
            )
        try:
            self._manager.register(plugin, name)
        except (ValueError, TypeError, pluggy.PluginValidationError) as exc:
            raise ConfigurationError(
                f"plugin {name} cannot be registered: {_one_line(exc)}"
            ) from exc

    def _check_hooks(self, backend: object) -> None:
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as exc:
            raise ConfigurationError(
                f"{_one_line(exc)}. The hooks are in runnerwsgi.hookspecs."
            ) from exc
        for hook in _BACKEND_HOOKS:
            owners = [
                impl.plugin
                for impl in getattr(self._manager.hook, hook).get_hookimpls()
                if not (impl.wrapper or impl.hookwrapper)
            ]
            if hook in REQUIRED_HOOKS and not any(owner is backend for owner in owners):
                unmarked = ": @hookimpl is missing above it" if hasattr(backend, hook) else ""
                raise ConfigurationError(
                    f"backend {self.backend_name} does not implement {hook}{unmarked}."
                )
            if others := [_name_of(owner) for owner in owners if owner is not backend]:
                raise ConfigurationError(
                    f"{', '.join(others)} implements {hook} beside the backend "
                    f"{self.backend_name}: observers use @hookimpl(wrapper=True)."
                )

    def _capabilities(self) -> Mapping[str, Mapping[str, Callable[..., Any]]]:
        merged: dict[str, dict[str, Callable[..., Any]]] = {}
        for name, provide in _each(self._manager, "runner_capabilities"):
            for interface, functions in _provided(name, provide).items():
                known = merged.setdefault(interface, {})
                if twice := known.keys() & functions.keys():
                    raise ConfigurationError(
                        f"{name} provides {interface}.{min(twice)}, "
                        "and so does another plugin; name only one of them."
                    )
                known.update(functions)
        return merged

    def _culprit(self, exc: BaseException) -> str:
        """The plugin whose hook an exception came through: pluggy does not say."""
        owners = {
            impl.function.__code__: impl.plugin_name
            for hook in vars(self._manager.hook).values()
            if isinstance(hook, pluggy.HookCaller)
            for impl in hook.get_hookimpls()
            if hasattr(impl.function, "__code__")
        }
        culprit, step = "a plugin", exc.__traceback__
        while step is not None:
            culprit = owners.get(step.tb_frame.f_code, culprit)
            step = step.tb_next
        return culprit


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.NAME)
    manager.add_hookspecs(hookspecs)
    return manager


def _each(manager: pluggy.PluginManager, hook: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The implementation of each plugin that has *hook*, with the plugin's name."""
    for impl in getattr(manager.hook, hook).get_hookimpls():
        yield impl.plugin_name, cast("Callable[[], Any]", impl.function)


def _named(env: Mapping[str, str]) -> list[tuple[str, str]]:
    """The plugins that an environment names, however wrong the rest of it is."""
    rows = [row for row in SETTINGS if row.name in ("RUNNER_BACKEND", "RUNNER_PLUGINS")]
    values = read(rows, env)
    backend, plugins = values["RUNNER_BACKEND"], values["RUNNER_PLUGINS"]
    return [("RUNNER_BACKEND", backend), *(("RUNNER_PLUGINS", name) for name in plugins)]


def _load_plugins(
    named: Iterable[tuple[str, str]], env: Mapping[str, str]
) -> tuple[list[Any], list[str]]:
    """The plugin objects by (variable, name), and what kept others from loading."""
    loaded: list[Any] = []
    faults: list[str] = []
    for variable, name in named:
        try:
            loaded.append(discovery.load(name, env, variable=variable))
        except ConfigurationError as exc:
            faults += exc.faults
    return loaded, faults


def _findings(name: str, look: Callable[[], Any]) -> list[Finding]:
    """What the ``runner_findings`` of the plugin *name* gives; a fault of its own is a finding."""
    try:
        found = list(look())
    except Exception as exc:
        return [_unable(name, f"raised {type(exc).__name__}: {exc}")]
    if not all(isinstance(one, Finding) for one in found):
        return [_unable(name, "must return Findings")]
    return found


def _unable(name: str, fault: str) -> Finding:
    fix = "that is a fault of the plugin: report it where it came from."
    return Finding("fail", name, f"runner_findings {fault}", fix)


def _provided(name: str, provide: Callable[[], Any]) -> Mapping[str, Any]:
    """What the ``runner_capabilities`` of the plugin *name* gives, if it has the form asked for."""
    try:
        found = provide()
    except Exception as exc:
        raise ConfigurationError(
            f"{name}: runner_capabilities raised {type(exc).__name__}: {exc}."
        ) from exc
    tables = found.values() if isinstance(found, Mapping) else (found,)
    if not all(
        isinstance(table, Mapping) and all(map(callable, table.values())) for table in tables
    ):
        raise ConfigurationError(
            f"{name}: runner_capabilities must return functions by WIT interface and WIT function, "
            "such as {'clients': {'get-client': self.get_client}}."
        )
    # It brings the database library along: only who provides something waits for that.
    from .capabilities import check_provided

    provided = cast("Mapping[str, Any]", found)
    check_provided(name, provided)
    return provided


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())


def _fault(response: ExecuteResponse) -> str | None:
    """What a backend has put where something else belongs; None where all is well."""
    for name, (kinds, expected) in _RESPONSE_TYPES.items():
        value = getattr(response, name)
        if not isinstance(value, kinds):
            return f"{name} of type {type(value).__name__}; use {expected}"
    if response.outcome not in OUTCOMES:
        return f"the outcome {response.outcome!r}; use one of {', '.join(OUTCOMES)}"
    for pair in response.headers:
        if not _is_pair(pair):
            return f"headers that hold {pair!r}; use pairs of two texts: (name, value)"
    return None


def _is_pair(value: Any) -> bool:
    match value:
        case (str(), str()):
            return True
    return False


def _name_of(plugin: object) -> str:
    name = getattr(plugin, "name", None)
    return name if isinstance(name, str) else type(plugin).__name__.lower()
