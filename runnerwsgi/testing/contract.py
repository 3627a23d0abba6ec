"""BackendContract: what every backend must do, as pytest tests to inherit."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from runnerwsgi import hookspecs
from runnerwsgi.errors import BadRunnerResponse, ConfigurationError, RunnerError
from runnerwsgi.gateway import Gateway
from runnerwsgi.headers import is_token, is_value
from runnerwsgi.protocol import (
    Bundle,
    ExecuteRequest,
    ExecuteResponse,
    Health,
    LogLine,
    UiAsset,
    WarmUp,
)

THREADS = 4
BODIES = (b"", b"plain", bytes(range(256)), "Grüße 🎉".encode(), b"\r\n\x00" * 1000)

_VISIBLE = re.compile(r"[!-~]+")


class BackendContract:
    """What every backend must do. Inherit it, and pytest runs it against yours.

    Say how a backend is made and give it a request that its handler answers with 200. The
    optional methods let the kit look deeper: a test that needs one you left out is skipped,
    and says which. The tests call your hooks as a gateway does, from several threads too.

    Example::

        from runnerwsgi.testing import BackendContract

        class TestEcho(BackendContract):
            def make_backend(self):
                return Echo()

            def sample_request(self):
                return ExecuteRequest(
                    Context("acme", "demo.echo", "sha256:" + "0" * 64),
                    HttpRequest("GET", "/"),
                    Limits(timeout_ms=5000),
                )

    Attributes:
        runs_bundles: False for a backend that answers without any bundle, such as an echo:
            then a bundle that nobody has need not be an error.
        margin: seconds a call may take beyond its ``limits.timeout_ms``: the way to a remote
            runner and back.
    """

    runs_bundles = True
    margin = 1.0

    def make_backend(self) -> Any:
        """A new backend, ready to serve. Called for every test; close is the kit's task."""
        raise NotImplementedError(
            f"{type(self).__name__} must override make_backend() to return your plugin object."
        )

    def sample_request(self) -> ExecuteRequest:
        """A request that the handler behind your backend answers with 200."""
        raise NotImplementedError(
            f"{type(self).__name__} must override sample_request() to return a request "
            "that is answered with 200."
        )

    def echo_request(self, body: bytes) -> ExecuteRequest | None:
        """Optional: a request with *body*, which the handler answers with the same bytes."""
        return None

    def endless_request(self) -> ExecuteRequest | None:
        """Optional: a request whose handler does not end by itself."""
        return None

    @pytest.fixture
    def backend(self) -> Iterator[Any]:
        """The backend of one test, closed afterwards."""
        backend = self.make_backend()
        yield backend
        close_backend(backend)

    @pytest.fixture
    def gateway(self, backend: Any) -> Gateway:
        """A gateway around the backend; closing the backend is left to its own fixture."""
        return Gateway(backend)

    # What it is

    def test_it_is_an_instance_with_the_required_hooks(self, backend: Any) -> None:
        """The façade takes it: an instance, nothing misspelt, nothing required missing."""
        try:
            Gateway(backend)
        except ConfigurationError as exc:
            pytest.fail(f"runnerwsgi.Gateway refuses the backend: {exc}")

    def test_its_hooks_are_marked_and_known(self, backend: Any) -> None:
        """Pluggy ignores a hook without ``@hookimpl`` and one it does not know, silently."""
        known = {name for name, hook in vars(hookspecs).items() if hasattr(hook, "runnerwsgi_spec")}
        for name in _hook_names(backend):
            assert name in known, (
                f"{name} is no hook, so nobody calls it. Rename it to one of "
                f"{', '.join(sorted(known))}, or give it a name without runner_."
            )
            assert hasattr(getattr(backend, name), "runnerwsgi_impl"), (
                f"{name} is not marked, so nobody calls it. Write @hookimpl above it "
                "(from runnerwsgi import hookimpl)."
            )

    def test_it_describes_itself_in_json(self, gateway: Gateway) -> None:
        """``runner_metadata``, where there is one, answers what `doctor` can print."""
        described = gateway.metadata()
        try:
            json.dumps({name: dict(values) for name, values in described.items()})
        except (TypeError, ValueError) as exc:
            pytest.fail(f"runner_metadata must return a mapping of JSON values; {exc}.")

    def test_what_it_finds_comes_with_what_to_do(self, gateway: Gateway) -> None:
        """``runner_findings``, where there is one, gives Findings; what is wrong says a fix."""
        for found in gateway.findings():
            assert not found.found.startswith("runner_findings "), found.found
            assert found.fix or found.state == "ok", (
                f"`doctor` says {found.what}: {found.found}, and not what to do about it. "
                "Give the Finding a fix."
            )

    # Execute

    def test_it_executes(self, gateway: Gateway) -> None:
        """The sample request is answered with outcome ``ok`` and status 200."""
        response = _answer(gateway, self.sample_request())
        assert response.outcome == "ok", (
            f"sample_request() ended as {response.outcome}: {response.error}. "
            "Give a request that the handler answers."
        )
        assert response.status == 200, (
            f"sample_request() was answered with {response.status}. "
            "Give a request that the handler answers with 200."
        )

    @pytest.mark.parametrize(
        "body",
        BODIES,
        ids=["nothing", "ASCII", "every byte", "UTF-8", "line ends and zeros"],
    )
    def test_bytes_come_back_unharmed(self, gateway: Gateway, body: bytes) -> None:
        """A body is bytes, in and out: no text decoding, no line-end or base64 residue."""
        response = _answer(gateway, self._echo(body))
        assert (response.body or b"") == body, (
            f"{_short(body)} went in and {_short(response.body or b'')} came back. "
            "Pass request.http.body on as the bytes it is."
        )

    def test_threads_get_their_own_answers(self, gateway: Gateway) -> None:
        """Four calls at once do not mix: keep no state of a call on the plugin object."""
        bodies = [f"thread {number}".encode() for number in range(THREADS)]
        requests = [self.echo_request(body) or self.sample_request() for body in bodies]
        start = threading.Barrier(THREADS)

        def call(request: ExecuteRequest) -> ExecuteResponse:
            start.wait(timeout=10)
            return _answer(gateway, request)

        with ThreadPoolExecutor(THREADS) as pool:
            responses = list(pool.map(call, requests))
        for body, request, response in zip(bodies, requests, responses, strict=True):
            assert response.outcome == "ok", f"called by {THREADS} threads: {response.error}"
            assert request.http.body != body or response.body == body, (
                f"the call with {_short(body)} got {_short(response.body or b'')}: "
                "an answer of another thread."
            )

    # Time

    def test_a_short_limit_is_kept(self, backend: Any) -> None:
        """A call that is given one millisecond ends, one way or the other, in time."""
        self._ends_in_time(backend, limited(self.sample_request(), timeout_ms=1))

    def test_an_endless_handler_is_ended(self, backend: Any) -> None:
        """A handler that does not end is ended: outcome ``timeout``, or an error of 504."""
        request = self.endless_request()
        if request is None:
            pytest.skip("override endless_request() to see that a handler is ended in time")
        if hasattr(backend, "runner_warm_up"):  # compiling is not what is timed here
            backend.runner_warm_up(bundle=_bundle(request))
        answer = self._ends_in_time(backend, limited(request, timeout_ms=300))
        status = answer.status if isinstance(answer, RunnerError) else answer.outcome
        assert status in (504, "timeout", "out_of_fuel"), (
            f"an endless handler ended as {status}. Answer outcome='timeout' when "
            "limits.timeout_ms is over, or raise DeadlineExceeded."
        )

    # Errors

    def test_an_unknown_bundle_is_told_as_such(self, backend: Any) -> None:
        """A well-formed hash that nobody has is an outcome or an error of ours."""
        answer = execute_hook(backend, _unknown(self.sample_request()))
        if isinstance(answer, ExecuteResponse):
            assert not self.runs_bundles or answer.outcome != "ok", (
                "a bundle that nobody has was executed. Answer outcome='not_found' or raise "
                "BundleUnavailable; set runs_bundles = False if your backend needs no bundle."
            )

    def test_warming_up_says_what_it_did(self, backend: Any) -> None:
        """``runner_warm_up``, where there is one, answers a WarmUp or raises an error of ours."""
        if not hasattr(backend, "runner_warm_up"):
            return
        bundle = _bundle(self.sample_request())
        answer = backend.runner_warm_up(bundle=bundle)
        assert isinstance(answer, WarmUp), (
            f"runner_warm_up returned {type(answer).__name__}; return WarmUp(compiled, ms)."
        )
        try:
            backend.runner_warm_up(bundle=replace(bundle, content_hash=_nobodys_hash()))
        except RunnerError:
            pass
        except Exception as exc:
            pytest.fail(_foreign("runner_warm_up", exc))

    # UI

    @pytest.mark.parametrize(
        "path",
        ["index.html", "assets/app.js", "a folder/ä #1?.css"],
        ids=["the entry", "a file in a folder", "a name that a URL must quote"],
    )
    def test_it_says_where_a_ui_file_is(self, gateway: Gateway, path: str) -> None:
        """The URL is one the gateway can fetch, and names the version and the file."""
        asset = self._asset(path)
        url = gateway.resolve_ui_url(asset)
        assert _VISIBLE.fullmatch(url), (
            f"{url!r} is not a URL: quote the path with urllib.parse.quote."
        )
        parts = urlsplit(url)
        assert parts.scheme in ("http", "https", "file"), (
            f"{url!r} must begin with http:, https: or file:."
        )
        assert bool(parts.hostname) != (parts.scheme == "file"), (
            f"{url!r}: http and https name a host, file names none (file:///…)."
        )
        assert not parts.username, f"{url!r} holds credentials, which would end up in logs."
        found = unquote(parts.path)
        assert asset.content_hash.removeprefix("sha256:") in found, (
            f"{url!r} does not name the content hash, so two versions would share files."
        )
        assert found.endswith(f"/{path}"), (
            f"the path of {url!r} must end with /{path}, quoted with urllib.parse.quote."
        )

    # Health and the end

    def test_health_answers_at_once(self, backend: Any) -> None:
        """Health reports what is known already; it neither waits nor raises."""
        started = time.monotonic()
        try:
            health = backend.runner_health()
        except Exception as exc:
            pytest.fail(f"runner_health raised {exc!r}; answer Health('unavailable', …) instead.")
        took = time.monotonic() - started
        assert took < 1, f"runner_health took {took:.1f} s; report the last known state instead."
        assert isinstance(health, Health), (
            f"runner_health returned {type(health).__name__}; return Health('ok')."
        )
        assert health.status in ("ok", "degraded", "unavailable"), (
            f"health status {health.status!r}; use ok, degraded or unavailable."
        )
        for name, text in health.checks.items():
            assert isinstance(text, str), f"health check {name}: {text!r} must be a text."

    def test_closing_twice_is_harmless(self, backend: Any) -> None:
        """``runner_close`` may be called again: by the host, and by the interpreter's end."""
        close_backend(backend)
        try:
            close_backend(backend)
        except Exception as exc:
            pytest.fail(f"the second runner_close raised {exc!r}; let it do nothing.")

    def _echo(self, body: bytes) -> ExecuteRequest:
        request = self.echo_request(body)
        if request is None:
            pytest.skip("override echo_request() to see that bodies come back unharmed")
        return request

    def _asset(self, path: str) -> UiAsset:
        context = self.sample_request().context
        return UiAsset(context.tenant_id, context.extension_id, context.content_hash, path)

    def _ends_in_time(self, backend: Any, request: ExecuteRequest) -> ExecuteResponse | RunnerError:
        allowed = request.limits.timeout_ms / 1000 + self.margin
        started = time.monotonic()
        answer = execute_hook(backend, request)
        took = time.monotonic() - started
        assert took < allowed, (
            f"a call with limits.timeout_ms={request.limits.timeout_ms} took {took:.1f} s; "
            f"end it within {allowed:.1f} s: keep one deadline for everything."
        )
        return answer


def check_response(response: ExecuteResponse) -> None:
    """Assert that an answer is one that can be sent; its types are the gateway's to check."""
    if response.outcome != "ok":
        return
    assert 200 <= response.status <= 599, f"status {response.status}; use an int from 200 to 599."
    for name, value in response.headers:
        assert is_token(name), f"header name {name!r} is not a token (RFC 9110 §5.1)."
        assert is_value(value), f"header {name} has a control character: {value!r}."
    for line in response.logs:
        assert isinstance(line, LogLine), f"logs holds {line!r}; use LogLine(level, message)."
    for phase, ms in response.timings.items():
        assert ms >= 0, f"timing {phase} is {ms!r}; use milliseconds."


def _hook_names(backend: object) -> list[str]:
    """What looks like a hook: by its prefix, or by its mark."""
    return [
        name
        for name, value in inspect.getmembers(backend, callable)
        if name.startswith("runner_") or hasattr(value, "runnerwsgi_impl")
    ]


def _answer(gateway: Gateway, request: ExecuteRequest) -> ExecuteResponse:
    """What comes out of a gateway, which has looked at the types of it."""
    try:
        response = gateway.execute(_of_its_own(request))
    except BadRunnerResponse as exc:
        pytest.fail(f"{exc}. See runnerwsgi.protocol.ExecuteResponse for what belongs there.")
    check_response(response)
    return response


def execute_hook(backend: Any, request: ExecuteRequest) -> ExecuteResponse | RunnerError:
    """Call the hook itself: a gateway would turn a foreign exception into one of ours."""
    try:
        answer = backend.runner_execute(request=_of_its_own(request))
    except RunnerError as error:
        return error
    except Exception as exc:
        pytest.fail(_foreign("runner_execute", exc))
    assert isinstance(answer, ExecuteResponse), (
        f"runner_execute returned {type(answer).__name__}; return ExecuteResponse(status, …)."
    )
    return answer


def _foreign(hook: str, exc: Exception) -> str:
    return (
        f"{hook} raised {type(exc).__name__}: {exc}. Raise an error of runnerwsgi.errors "
        "instead, with `from exc`, or answer an outcome."
    )


def limited(request: ExecuteRequest, timeout_ms: int) -> ExecuteRequest:
    """*request* with another time limit."""
    return replace(request, limits=replace(request.limits, timeout_ms=timeout_ms))


def _of_its_own(request: ExecuteRequest) -> ExecuteRequest:
    """*request* as a call that nobody made before: a key used twice is not executed twice."""
    if request.idempotency_key is None:
        return request
    return replace(request, idempotency_key=uuid.uuid4().hex)


def _unknown(request: ExecuteRequest) -> ExecuteRequest:
    return replace(request, context=replace(request.context, content_hash=_nobodys_hash()))


def _bundle(request: ExecuteRequest) -> Bundle:
    context = request.context
    return Bundle(context.tenant_id, context.extension_id, context.content_hash)


def _nobodys_hash() -> str:
    return f"sha256:{hashlib.sha256(uuid.uuid4().bytes).hexdigest()}"


def close_backend(backend: Any) -> None:
    """Close a backend that has something to close."""
    if hasattr(backend, "runner_close"):
        backend.runner_close()


def _short(data: bytes) -> str:
    return repr(data) if len(data) <= 32 else f"{data[:32]!r}… ({len(data)} bytes)"
