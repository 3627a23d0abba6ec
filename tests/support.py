"""What many tests stand on: a bundle, a recording backend, an application with the middleware."""

import io
import json
import ssl
import sys
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import check_environ, validator

from runnerwsgi import (
    ExecuteResponse,
    Gateway,
    Health,
    Installs,
    Principal,
    RunnerMiddleware,
    Settings,
    hookimpl,
)
from runnerwsgi.bundles import BundleStore, pack

EXTENSION = "acme.hello"
FILES = {
    "manifest.json": b'{"name":"acme.hello","version":"1.0.0"}',
    "ui/index.html": b"hello",
    "ui/app.js": b"console.log(1)",
    "ui/sw.js": b"",
    "ui/logo.png": b"\x89PNG",
    "dist/main.wasm": b"\0asm\x01\0\0\0",
}


def pack_files(folder, files=FILES):
    """Write *files* under *folder* and pack them into a bundle."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return pack(folder)


def write_plugin(folder, name, source, plugin=None):
    """A distribution of one plugin, as an installer would leave it."""
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[runnerwsgi]\n{plugin or name} = {name}:plugin\n")


class Recorder:
    """A backend that keeps what it was asked for, and answers as `answer` says."""

    def __init__(self, store):
        self.store = store
        self.requests = []
        self.assets = []

    def answer(self, request):
        return ExecuteResponse(200, (("content-type", "text/plain"),), request.http.body)

    @hookimpl
    def runner_execute(self, request):
        self.requests.append(request)
        return self.answer(request)

    @hookimpl
    def runner_resolve_ui_url(self, asset):
        self.assets.append(asset)
        return (self.store.get(asset.content_hash).path / "ui" / asset.path).as_uri()

    @hookimpl
    def runner_health(self):
        return Health("ok")


class Remote(Recorder):
    """A backend whose files are on a real HTTP server."""

    base = ""

    @hookimpl
    def runner_resolve_ui_url(self, asset):
        self.assets.append(asset)
        return f"{self.base}/{asset.path}"


def host_app(environ, start_response):
    """The application around which the middleware stands."""
    environ["test.host_called"] = environ
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"host"]


@dataclass
class Answer:
    """What came back through WSGI."""

    status: int
    headers: list
    body: bytes
    environ: dict = field(repr=False)
    input: io.BytesIO = field(repr=False)

    def header(self, name):
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        return self.json["code"]

    @property
    def from_host(self):
        return "test.host_called" in self.environ


class CountingInput(io.BytesIO):
    """A `wsgi.input` that says how much was read of it."""

    consumed = 0

    def read(self, size=-1):
        data = super().read(size)
        self.consumed += len(data)
        return data


def make_environ(method="GET", path="/", body=b"", **more):
    """An environ as servers make it; keyword arguments are further keys, None removes one."""
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "REMOTE_ADDR": "127.0.0.1",
    }
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    setup_testing_defaults(environ)
    environ["wsgi.input"] = CountingInput(body)
    environ.update(more)
    return {key: value for key, value in environ.items() if value is not None}


def send(app, environ):
    """Call *app*, under wsgiref's validator unless the environ itself is what is wrong."""
    started, given = [], environ.get("wsgi.input")

    def start_response(status, headers, exc_info=None):
        started[:] = [int(status.split()[0]), list(headers)]
        return lambda data: None

    result = (validator(app) if is_valid(environ) else app)(environ, start_response)
    try:
        body = b"".join(result)
    finally:
        if hasattr(result, "close"):
            result.close()
    return Answer(started[0], started[1], body, environ, given)


def is_valid(environ):
    """Whether wsgiref's validator lets *environ* pass."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_environ(environ)
    except (AssertionError, KeyError, ValueError, Warning):
        return False
    return True


class Site:
    """An application with the middleware around it, and acme.hello installed for tenant t1."""

    def __init__(
        self, folder, *, identify=None, backend=Recorder, plugins=(), files=FILES, **settings
    ):
        self.settings = Settings(home=folder / "home", **settings)
        self.store = BundleStore.from_url(self.settings.bundle_store)
        self.backend = backend(self.store)
        self.installs = Installs.from_settings(self.settings)
        self.principal = Principal("t1", "u1")
        self.bundle = self.store.add(pack_files(folder / "source", files))
        self.gateway = Gateway(self.backend, *plugins, names=["recorder"])
        self.app = RunnerMiddleware(
            host_app,
            self.gateway,
            identify=identify or (lambda environ: self.principal),
            installs=self.installs,
            settings=self.settings,
        )

    @cached_property
    def ui(self):
        return f"/runner/ext-ui/{EXTENSION}/{self.bundle.content_hash}/"

    def install(self, tenant="t1", extension=EXTENSION, *, digests=True, **more):
        return self.installs.add(
            tenant,
            extension,
            self.bundle.content_hash,
            self.bundle.manifest,
            ui_digests=self.bundle.ui_digests if digests else None,
            **more,
        )

    def send(self, method="GET", path="/", body=b"", **more):
        return send(self.app, make_environ(method, path, body, **more))

    def call(self, method="GET", path="hello", body=b"", **more):
        """A handler call as the application's own page makes it."""
        headers = {"HTTP_SEC_FETCH_SITE": "same-origin", **more}
        return self.send(method, f"/api/ext/{EXTENSION}/{path}", body, **headers)

    def file(self, path="index.html", **more):
        return self.send("GET", self.ui + path, **more)

    def __enter__(self):
        self.install()
        return self

    def __exit__(self, *exc):
        self.app.close()


@contextmanager
def in_thread(server):
    """Serve in a thread of its own, while the block runs."""
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class LoopbackServer(ThreadingHTTPServer):
    """A server of tests, whose clients may go away in the middle of everything."""

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@contextmanager
def http_server(respond, certificate=None):
    """A real server on loopback: `respond(handler)` answers each request. Gives its base URL.

    With a *certificate*, a file of it and its key, the server speaks TLS.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            respond(self)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    server = LoopbackServer(Handler)
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        # The handshake is each connection's own affair: a client may go away in the middle of it.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    with in_thread(server):
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"


def answer_with(handler, body=b"", status=200, **headers):
    """Answer a request of :func:`http_server` in full; a header given as None is left out."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        if value is not None:
            handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
