"""The hooks: what a backend, an observer or a provider of capabilities may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import click

    from .access import Principal
    from .installs import Install
    from .protocol import (
        Bundle,
        ExecuteRequest,
        ExecuteResponse,
        Finding,
        Health,
        UiAsset,
        WarmUp,
    )

NAME = "runnerwsgi"

hookspec = pluggy.HookspecMarker(NAME)
hookimpl = pluggy.HookimplMarker(NAME)


@hookspec(firstresult=True)
def runner_execute(request: ExecuteRequest) -> ExecuteResponse:
    """Run one handler call. Called for each call that passed access and the bulkhead.

    Required of a backend. Return an :class:`~runnerwsgi.protocol.ExecuteResponse`; what a
    guest did wrong is an ``outcome``, what stopped you from asking it is an exception of
    :mod:`runnerwsgi.errors`. Finish within ``request.limits.timeout_ms``. Called from
    several threads at once.

    Example::

        class Echo:
            @hookimpl
            def runner_execute(self, request):
                return ExecuteResponse(200, (), request.http.body)
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def runner_resolve_ui_url(asset: UiAsset) -> str:
    """Say where the bytes of one UI file are. Called for each asset that is not cached.

    Required of a backend. Answer an ``http:``, ``https:`` or ``file:`` URL; the gateway
    fetches, checks, caches and serves it. Do not look whether the file exists.

    Example::

        @hookimpl
        def runner_resolve_ui_url(self, asset):
            place = f"{asset.extension_id}/{asset.content_hash}/{quote(asset.path)}"
            return f"{self.base}/ext-ui/{place}"
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def runner_health() -> Health:
    """Say how you are, at once. Called for ``GET /runner/healthz`` and ``runnerwsgi health``.

    Required of a backend. Report what you know already; never wait for a remote.

    Example::

        @hookimpl
        def runner_health(self):
            return Health("ok", {"engine": "ready"})
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def runner_warm_up(bundle: Bundle) -> WarmUp:
    """Make a bundle ready ahead of its first call. Called when an extension is installed.

    Optional. Fetch, verify and compile; raise what would fail the first call.

    Example::

        @hookimpl
        def runner_warm_up(self, bundle):
            started = time.monotonic()
            compiled = self.cache.ensure(bundle.content_hash)
            return WarmUp(compiled, int((time.monotonic() - started) * 1000))
    """
    raise NotImplementedError


@hookspec
def runner_authorize(principal: Principal, install: Install, method: str, path: str) -> bool | None:
    """Say whether this caller may make this call. Asked of every plugin; one denial denies.

    Optional. Called after the access level of the route was met. Return False to deny,
    True or None to not object. An exception is an answer of 503, never a permission.

    Example::

        @hookimpl
        def runner_authorize(self, principal, install, method, path):
            return install.extension_id not in self.suspended
    """
    raise NotImplementedError


@hookspec
def runner_capabilities() -> Mapping[str, Mapping[str, Callable[..., Any]]]:
    """Provide host functions to guests: by WIT interface, by WIT function. Called once, at start.

    Optional. A function gets a :class:`~runnerwsgi.capabilities.Call` and the plain values
    of its WIT arguments. Raise ``CapabilityError("denied")`` for an error case.

    Example::

        @hookimpl
        def runner_capabilities(self):
            return {"invoicing": {"create-manual-invoice": self.create_manual_invoice}}
    """
    raise NotImplementedError


@hookspec
def runner_metadata() -> Mapping[str, Any]:
    """Describe yourself: version, limits, addresses. Called for health details and `doctor`.

    Optional. JSON values only; never a secret.

    Example::

        @hookimpl
        def runner_metadata(self):
            return {"version": "1.2.0", "max_body_bytes": 3_000_000}
    """
    raise NotImplementedError


@hookspec
def runner_findings() -> Sequence[Finding]:
    """Look at what must be right for you to work. Called for `runnerwsgi doctor`.

    Optional. Unlike health it may ask a remote; bound each wait to a few seconds. Whatever is
    not ``ok`` says what to do about it.

    Example::

        @hookimpl
        def runner_findings(self):
            if self.door.is_locked():
                return [Finding("fail", "door", "it is locked", "set RUNNER_SHED_KEY.")]
            return [Finding("ok", "door", "it opens")]
    """
    raise NotImplementedError


@hookspec
def runner_register_commands(group: click.Group) -> None:
    """Add sub-commands. Called when `runnerwsgi NAME …` is typed, with the group NAME.

    Optional. Only the plugin whose entry point is NAME is loaded for it. A function of this name
    in the module of the entry point is called instead, and no plugin is made: for commands that
    work before the plugin's settings are there.

    Example::

        @hookimpl
        def runner_register_commands(self, group):
            group.command("up")(self.up)
    """
    raise NotImplementedError


@hookspec
def runner_close() -> None:
    """Release whatever you opened: pools, threads, child processes. Called once, at the end.

    Optional.

    Example::

        @hookimpl
        def runner_close(self):
            self.pool.close()
    """
    raise NotImplementedError
