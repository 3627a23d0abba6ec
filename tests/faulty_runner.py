"""Our own runner server, which does one thing wrong."""

import base64
import io
import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote
from wsgiref.util import setup_testing_defaults

from runnerwsgi import Gateway, canary
from runnerwsgi.server import RunnerServer


def on_call(change):
    """A fault on the way to the guest: *change* is given the call's JSON."""
    return lambda call, envelope: change(call) if envelope is None else None


def on_envelope(change, when=lambda call: True):
    """A fault on the way back, for those calls that *when* picks."""
    return lambda call, envelope: change(envelope) if envelope is not None and when(call) else None


def is_get(call):
    return call["http"]["method"] == "GET"


def set_body(envelope, change):
    if envelope["body_b64"]:
        body = change(base64.b64decode(envelope["body_b64"]))
        envelope["body_b64"] = base64.b64encode(body).decode()


def quote_spaces(call):
    call["http"]["path"] = call["http"]["path"].replace(" ", "%20")


def lose_empty_body(call):
    if call["http"].get("body_b64") == "":
        del call["http"]["body_b64"]


def lose_log(envelope):
    envelope["logs"] = envelope.get("logs", [])[1:]


def raise_level(envelope):
    envelope["logs"] = [["warn", text] for _, text in envelope.get("logs", [])]


def call_it_a_timeout(envelope):
    if envelope["outcome"] == "guest_trap":
        envelope["outcome"] = "timeout"


def swallow(envelope):
    if envelope["outcome"] == "guest_trap":
        envelope |= {"outcome": "ok", "status": 500, "error": None}


# What is wrong, by what it is, and the field in which `parity` must find it.
FAULTS = {
    "another status": ("status", on_envelope(lambda e: e.update(status=201), is_get)),
    "a header lost": ("header content-type", on_envelope(lambda e: _headers(e, "content-type"))),
    "a header added": (
        "header x-ext-new",
        on_envelope(lambda e: _headers(e, **{"x-ext-new": "1"})),
    ),
    "a header changed": (
        "header content-type",
        on_envelope(lambda e: _headers(e, **{"content-type": "text/plain"})),
    ),
    "repeated headers joined": (
        "header x-ext-two",
        on_envelope(lambda e: e.pop("header_list", None)),
    ),
    "a body cut short": ("body", on_envelope(lambda e: set_body(e, lambda body: body[:-1]))),
    "a body taken for text": (
        "body",
        on_envelope(lambda e: set_body(e, lambda b: b.decode("utf-8", "replace").encode())),
    ),
    "an empty body lost": ("body", on_call(lose_empty_body)),
    "repeated query names joined": (
        "body",
        on_call(lambda c: c["http"].pop("query_string", None)),
    ),
    "a path quoted again": ("body", on_call(quote_spaces)),
    "a request's headers lost": (
        "header x-ext-count",
        on_call(lambda c: c["http"].update(headers={})),
    ),
    "a log line lost": ("log 1", on_envelope(lose_log)),
    "a log line's level changed": ("log 1", on_envelope(raise_level)),
    "a trap called a timeout": ("outcome", on_envelope(call_it_a_timeout)),
    "a trap swallowed": ("outcome", on_envelope(swallow)),
}


def _headers(envelope, *lost, **more):
    pairs = envelope.pop("header_list", None) or list(envelope["headers"].items())
    kept = [[name, value] for name, value in pairs if name not in (*lost, *more)]
    envelope["header_list"] = [*kept, *map(list, more.items())]


class Faulty:
    """A WSGI application around the server: spoils what goes in, or what comes out."""

    def __init__(self, app, fault):
        self.app, self.fault = app, fault

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] != "/v1/execute":
            return self.app(environ, start_response)
        call = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        # A runner that fails its canary is not compared at all.
        fault = (
            right if call["context"]["extension_id"] == canary.BUNDLE.extension_id else self.fault
        )
        fault(call, None)
        data = json.dumps(call).encode()
        environ |= {"wsgi.input": io.BytesIO(data), "CONTENT_LENGTH": str(len(data))}
        started = []
        envelope = json.loads(b"".join(self.app(environ, lambda *args: started.append(args))))
        fault(call, envelope)
        body = json.dumps(envelope).encode()
        status, headers = started[0][:2]
        kept = [pair for pair in headers if pair[0].lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]


def right(call, envelope):
    """No fault."""


def wait_for(fact, seconds=30):
    """Give a fact time to become one."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


class _Handler(BaseHTTPRequestHandler):
    """Serves WSGI over connections that are kept, which servers for development do not do."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    app = None

    def do_GET(self):
        path, _, query = self.path.partition("?")
        length = self.headers.get("Content-Length", "")
        environ = {
            "REQUEST_METHOD": self.command,
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": length,
            "wsgi.input": io.BytesIO(self.rfile.read(int(length or 0))),
        }
        environ |= {f"HTTP_{n.upper().replace('-', '_')}": v for n, v in self.headers.items()}
        setup_testing_defaults(environ)
        body = b"".join(self.app(environ, self.start))
        if self.command != "HEAD":
            self.wfile.write(body)

    do_POST = do_HEAD = do_GET

    def start(self, status, headers, exc_info=None):
        self.send_response_only(int(status.split()[0]))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def handle(self):
        with suppress(OSError):  # a client that had enough is gone
            super().handle()

    def log_message(self, *args):
        pass


@contextmanager
def faulty_runner(home, fault=right):
    """Serve a runner over the bundles in *home*, with a fault; gives its URL."""
    settings, gateway = Gateway.configure({"RUNNER_HOME": str(home), "RUNNER_BACKEND": "wasm"})
    runner = RunnerServer(gateway, settings)
    handler = type("Handler", (_Handler,), {"app": staticmethod(Faulty(runner, fault))})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        runner.test.start()
        wait_for(lambda: runner.test.ready)
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        runner.close()
