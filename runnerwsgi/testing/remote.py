"""RemoteBackendContract: what a backend must do besides whose runner is elsewhere."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from runnerwsgi.errors import RunnerError
from runnerwsgi.protocol import ExecuteResponse

from .contract import BackendContract, close_backend, limited

if TYPE_CHECKING:
    from runnerwsgi.protocol import ExecuteRequest

TIMEOUT_MS = 700
# How often a server that only drips sends a byte.
DRIP_SECONDS = 0.05
HUGE = 10**12

_WORDS = {200: "OK", 307: "Temporary Redirect", 404: "Not Found", 502: "Bad Gateway"}


def answer(status: int, body: bytes, kind: str = "application/json", *more: str) -> bytes:
    """An answer as it goes on the wire; *more* are further header lines."""
    head = [f"HTTP/1.1 {status} {_WORDS[status]}", f"Content-Type: {kind}", *more]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def envelope(**fields: Any) -> bytes:
    """An answer whose body is an envelope (protocol §2), with some fields changed."""
    whole = {"status": 200, "headers": {}, "body_b64": None, "error": None, **fields}
    return answer(200, json.dumps(whole).encode())


# What a call may get back from whatever is at the runner's address, and is no answer to it.
NO_ANSWERS: dict[str, bytes] = {
    "a page of another program": answer(200, b"<!doctype html><p>Hello", "text/html"),
    "a page that does not exist there": answer(404, b"<p>Not found", "text/html"),
    "an error of a proxy": answer(502, b"<p>Bad gateway", "text/html"),
    "JSON that is no envelope": answer(200, b'{"ok": true}'),
    "an envelope that ends early": answer(200, b'{"status": 200, "headers": {')[:-2],
    "an envelope whose status is a text": envelope(status="200"),
    "an envelope whose body is not base64": envelope(body_b64="!"),
    "an envelope with a header that would be two": envelope(headers={"a": "b\r\nc: d"}),
    "an envelope of another encoding": answer(200, '{"status": 200}'.encode("utf-16")),
    "an answer of an announced terabyte": (
        f"HTTP/1.1 200 OK\r\nContent-Length: {HUGE}\r\n\r\n".encode()
    ),
    "an answer with two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "bytes that are no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
}


# What the kit answers whoever asks after a runner's health before it calls.
READY = answer(200, b'{"status": "ok"}', "application/json", "X-Runner: kit/1")


class RemoteBackendContract(BackendContract):
    """What a backend must do, and one that speaks the runner protocol besides.

    Say how a backend is made whose runner is at an address. The kit puts there what a network
    has in store: nobody, silence, another program, answers that break off. Whatever it is, a
    call ends in time, and with an error of ours.

    Example::

        from runnerwsgi.testing import RemoteBackendContract

        class TestDocker(RemoteBackendContract):
            def make_backend(self):
                return self.make_backend_at("http://127.0.0.1:8085")

            def make_backend_at(self, base):
                return plugin({"RUNNER_DOCKER_HOST": base})

            def sample_request(self):
                return request_of_an_installed_extension()
    """

    def make_backend_at(self, base: str) -> Any:
        """A new backend whose runner is at *base*, such as ``http://127.0.0.1:8085``."""
        raise NotImplementedError(
            f"{type(self).__name__} must override make_backend_at(base) to return your plugin "
            "object for a runner at that address."
        )

    def test_nobody_at_its_address_is_told(self) -> None:
        """Where nothing listens, calls fail with an error of ours, and health says so."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with self._at(f"http://127.0.0.1:{port}") as backend:
            self._fails(backend, self._call())
            health = backend.runner_health()
            assert health.status == "unavailable", (
                f"nothing listens at the runner's address, and health is {health.status}; "
                "answer 'unavailable' once a look or a call has failed."
            )

    def test_a_silent_runner_is_left_in_time(self) -> None:
        """A runner that takes the call and never answers costs what the call was given."""
        with _Stranger(lambda connection, over: over.wait()) as stranger:
            self._fails_at(stranger.url)

    def test_an_answer_that_drips_is_left_in_time(self) -> None:
        """The deadline is one for the whole answer: bytes that come do not begin it anew."""

        def drip(connection: socket.socket, over: threading.Event) -> None:
            connection.sendall(
                f"HTTP/1.1 200 OK\r\nContent-Length: {HUGE // 10**6}\r\n\r\n".encode()
            )
            while not over.wait(DRIP_SECONDS):
                connection.sendall(b" ")

        with _Stranger(drip) as stranger:
            self._fails_at(stranger.url)

    @pytest.mark.parametrize("data", NO_ANSWERS.values(), ids=NO_ANSWERS)
    def test_what_is_no_answer_is_not_taken_for_one(self, data: bytes) -> None:
        """Another program at the address, or broken framing, never becomes a guest's answer."""
        with _Stranger(lambda connection, over: connection.sendall(data)) as stranger:
            self._fails_at(stranger.url)

    def test_a_redirect_is_not_followed(self) -> None:
        """A call, with the token in it, goes to the runner's address and nowhere else."""
        good = envelope()
        with _Stranger(lambda connection, over: connection.sendall(good)) as elsewhere:
            to = answer(307, b"", "text/plain", f"Location: {elsewhere.url}/v1/execute")
            with _Stranger(lambda connection, over: connection.sendall(to)) as stranger:
                self._fails_at(stranger.url)
            assert not elsewhere.calls, "a redirect was followed; the token went along."

    def test_an_unsafe_call_is_sent_once(self) -> None:
        """A POST that the runner took and did not answer may have been executed: no second try."""
        with _Stranger(lambda connection, over: None) as stranger:
            self._fails_at(stranger.url)
            assert stranger.calls == 1, (
                f"a POST whose connection was lost was sent {stranger.calls} times; repeat only "
                "what is safe (GET, HEAD, OPTIONS), or was not sent in full."
            )

    def _call(self) -> ExecuteRequest:
        request = limited(self.sample_request(), timeout_ms=TIMEOUT_MS)
        return replace(request, http=replace(request.http, method="POST", body=b"once"))

    @contextmanager
    def _at(self, base: str) -> Iterator[Any]:
        backend = self.make_backend_at(base)
        try:
            yield backend
        finally:
            close_backend(backend)

    def _fails_at(self, base: str) -> None:
        with self._at(base) as backend:
            self._fails(backend, self._call())

    def _fails(self, backend: Any, request: ExecuteRequest) -> None:
        found = self._ends_in_time(backend, request)
        assert not isinstance(found, ExecuteResponse) or found.outcome != "ok", (
            f"the guest is said to have answered {found}; nobody asked it."
        )
        status = found.status if isinstance(found, RunnerError) else 502
        assert status in (502, 503, 504), (
            f"{found!r} has status {status}: it is not the caller's fault. Raise one of "
            "BackendUnreachable, BadRunnerResponse, DeadlineExceeded or OutcomeUnknown."
        )


class _Stranger:
    """A server that answers every POST as it likes, and everything else as a runner would."""

    def __init__(self, respond: Callable[[socket.socket, threading.Event], Any]) -> None:
        self.calls = 0
        self._respond = respond
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> _Stranger:
        stranger = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError), closing(self.request.makefile("rb")) as stream:
                    stranger._serve(self.request, stream)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(server.server_close)  # waits for its threads
        self._stack.callback(server.shutdown)
        self._stack.callback(self._over.set)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _serve(self, connection: socket.socket, stream: Any) -> None:
        while line := stream.readline():
            length = 0
            while (field := stream.readline()).strip():
                name, _, value = field.partition(b":")
                length = int(value) if name.strip().lower() == b"content-length" else length
            stream.read(length)
            if line.startswith(b"POST"):
                with self._lock:
                    self.calls += 1
                self._respond(connection, self._over)
                return
            connection.sendall(READY)
