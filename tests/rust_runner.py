"""A stand-in for AlgaPSA's own runner: does over HTTP what that one does, loose ends included.

Guests are really run, by the embedded engine; everything around them is what its sources say.
What it lacks beside ours: marker, outcome, logs, raw query, repeated headers, tokens, warm-up.
"""

import base64
import hashlib
import json
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from runnerwsgi import Gateway
from runnerwsgi.bundles import BundleStore
from runnerwsgi.capabilities import Call, HostCapabilities
from runnerwsgi.capabilities.user import FUNCTIONS
from runnerwsgi.errors import RunnerError
from runnerwsgi.protocol import Context, ExecuteRequest, HttpRequest, Limits, User

MAX_BODY = 2 * 1024 * 1024
IMMUTABLE = "public, max-age=31536000, immutable"
# It names only where the guest was, never why it ended: what comes after is lost to it.
BACKTRACE = "error while executing at wasm backtrace:\n    0:    0x1f4 - <unknown>!handler"
CAPABILITIES = {
    *("cap:context.read", "cap:log.emit", "cap:user.read", "cap:secrets.get", "cap:http.fetch"),
    *("cap:storage.kv", "cap:ui.proxy", "cap:scheduler.manage", "cap:invoice.manual.create"),
    *("cap:client.read", "cap:service.read"),
}
ASSET_TYPES = {
    *("html", "js", "css", "json", "map", "svg", "png", "jpg", "jpeg", "webp", "woff", "woff2")
}

# The shape of a call. A name that ends in `!` must be there, in `?` may be missing or null, in
# `-` may be missing and must not be null. A class is a value's, `{}` an object of strings.
SHAPE = {
    "context!": {
        "tenant_id!": str,
        "extension_id!": str,
        "content_hash!": str,
        "request_id?": str,
        "install_id?": str,
        "version_id?": str,
        "config-": {},
    },
    "http!": {"method!": str, "path!": str, "query-": {}, "headers-": {}, "body_b64?": str},
    "limits-": {"timeout_ms?": int, "memory_mb?": int, "fuel?": int},
    "providers-": list,
    "secret_envelope?": {"ciphertext_b64!": str},
    "user?": {
        "user_id!": str,
        "user_email!": str,
        "user_name!": str,
        "user_type!": str,
        "client_name-": str,
        "client_id?": str,
        "additional_fields-": {},
    },
}


class RustRunner:
    """A running stand-in, and what it was asked.

    Example::

        with RustRunner(tmp_path) as runner:
            content_hash = runner.publish("acme", "demo.echo", archive)
            client = RunnerClient(runner.url, ServiceToken(None))
    """

    def __init__(self, home):
        env = {"RUNNER_HOME": str(home), "RUNNER_BACKEND": "wasm"}
        settings, self.gateway = Gateway.configure(env)
        self.store = BundleStore.from_url(settings.bundle_store)
        self.published = set()
        self.replays = {}
        self.asked = []

    def publish(self, tenant, extension, archive):
        """Put a bundle where it looks for it: under a tenant and an extension."""
        content_hash = self.store.add(archive).content_hash
        self.published.add((tenant, extension, content_hash))
        return content_hash

    def __enter__(self):
        runner = self

        class Handler(_Handler):
            rust = runner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.gateway.close()

    def execute(self, headers, call):
        """The envelope of a call of the right shape."""
        tenant, extension = headers.get("X-Alga-Tenant"), headers.get("X-Alga-Extension")
        if not (tenant and extension):
            return failed(400, "missing_routing_headers")
        key = headers.get("X-Idempotency-Key")
        if key in self.replays:  # whoever's it was
            return self.replays[key]
        if (tenant, extension, call["context"]["content_hash"]) not in self.published:
            return failed(502, "bundle_fetch_failed: verify_archive_sha256 fetch failed: 404")
        wanted = {name.strip().lower() for name in call.get("providers", ())}
        if unknown := sorted(wanted - CAPABILITIES):
            return failed(400, f"unknown_capabilities: {', '.join(unknown)}")
        if call.get("secret_envelope"):
            return failed(500, "secret_decrypt_failed")
        envelope = self._run(call)
        if key and envelope["error"] is None:
            self.replays[key] = envelope
        return envelope

    def _run(self, call):
        if call.get("limits", {}).get("timeout_ms") is None:
            return failed(500, f"execute_failed: {BACKTRACE}")
        try:
            response = self.gateway.execute(request_of(call))
        except RunnerError as exc:
            return failed(500, f"engine_init_failed: {exc}")
        if response.outcome in ("not_found", "refused"):
            return failed(502, "bundle_fetch_failed: No such file or directory (os error 2)")
        if response.outcome != "ok":
            return failed(500, f"execute_failed: {BACKTRACE}")
        body = response.body
        return {
            "status": response.status,
            "headers": dict(response.headers),  # of a repeated one, the last stays
            "body_b64": None if body is None else base64.b64encode(body).decode(),
            "error": None,
        }

    def file(self, place, tenant):
        """The UI file at ``extension/hash/path``: a status, its text or its path on disk."""
        extension, content_hash, path = (unquote(part) for part in place.split("/", 2))
        digits = content_hash.removeprefix("sha256:").lower()
        if digits == content_hash or not digits or set(digits) - set("0123456789abcdef"):
            return 400, b"invalid content hash"
        if not tenant or (tenant, extension, f"sha256:{digits}") not in self.published:
            return 404, b""
        if not is_servable(path):
            return 400, b"invalid path"
        ui = self.store.get(f"sha256:{digits}").path / "ui"
        # Whatever is not there is the page of an application that has routes of its own.
        found = ui / path if (ui / path).is_file() else ui / "index.html"
        return (200, found) if found.is_file() else (404, b"")


def failed(status, error):
    """An envelope of the runner's own making."""
    return {"status": status, "headers": {}, "body_b64": None, "error": error}


def request_of(call):
    """What its engine makes of a call: of the query, only names with one value each."""
    context, http, limits = call["context"], call["http"], call["limits"]
    body, user = http.get("body_b64"), user_of(call.get("user"))
    ids = [context.get(name) for name in ("request_id", "install_id", "version_id")]
    host = Call(context["tenant_id"], context["extension_id"], user=user)
    return ExecuteRequest(
        Context(context["tenant_id"], context["extension_id"], context["content_hash"], *ids),
        HttpRequest(
            http["method"],
            http["path"],
            urlencode(http.get("query", {})),
            tuple(http.get("headers", {}).items()),
            None if body is None else base64.b64decode(body),
        ),
        Limits(limits["timeout_ms"], limits.get("memory_mb") or 256),
        user=user,
        capabilities=HostCapabilities(host, call.get("providers", ()), FUNCTIONS),
    )


def user_of(found):
    """The user of a call."""
    if found is None:
        return None
    known = {marked[:-1]: found.get(marked[:-1]) for marked in SHAPE["user?"]}
    return User(**{name: value for name, value in known.items() if value is not None})


def wrong_field(value, shape, place=""):
    """The first field that is not as *shape* has it; None where all are."""
    if not isinstance(value, dict):
        return place or "the root"
    if not shape:
        texts = all(isinstance(text, str) for text in value.values())
        return None if texts else place
    for marked, expected in shape.items():
        name, need = marked[:-1], marked[-1]
        found, here = value.get(name), f"{place}.{name}".lstrip(".")
        if name not in value or (found is None and need == "?"):
            if need == "!":
                return here
        elif isinstance(expected, dict):
            if wrong := wrong_field(found, expected, here):
                return wrong
        elif type(found) is not expected or (expected is int and found < 0):
            return here
    return None


def is_servable(path):
    """Whether its rules for paths let one pass."""
    parts = [part for part in path.split("/") if part]
    if path.startswith("/") or "\\" in path or any(part.startswith(".") for part in parts):
        return False
    last = parts[-1] if parts else ""
    return "." not in last or last.rpartition(".")[2].lower() in ASSET_TYPES


class _Refused(Exception):
    def __init__(self, status, text):
        self.status, self.text = status, text


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rust = None

    def handle(self):
        with suppress(OSError):  # a client that had enough is gone
            super().handle()

    def do_GET(self):
        self.body = b""
        self._respond()

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(min(length, MAX_BODY + 1))
        self.close_connection = self.close_connection or length > len(self.body)
        self._respond()

    def _respond(self):
        self.rust.asked.append((self.command, self.path, self.headers, self.body))
        url = urlsplit(self.path)
        if url.path.startswith("/ext-ui/") and url.path.count("/") >= 4:
            return self._file(url)
        if url.path not in ROUTES:
            return self._answer(404)
        method, answer = ROUTES[url.path]
        if self.command != method and (self.command, method) != ("HEAD", "GET"):
            return self._answer(405, allow=method)
        try:
            return answer(self)
        except _Refused as exc:
            return self._answer(exc.status, exc.text.encode())

    def _json(self, shape):
        """The request's JSON, once it has *shape*."""
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise _Refused(415, "Expected request with `Content-Type: application/json`")
        if len(self.body) > MAX_BODY:
            raise _Refused(413, "Failed to buffer the request body: length limit exceeded")
        try:
            found = json.loads(self.body)
        except ValueError:
            raise _Refused(400, "Failed to parse the request body as JSON") from None
        if wrong := wrong_field(found, shape):
            text = f"Failed to deserialize the JSON body into the target type: {wrong}"
            raise _Refused(422, text)
        return found

    def _execute(self):
        envelope = self.rust.execute(self.headers, self._json(SHAPE))
        self._answer(200, json.dumps(envelope).encode(), "application/json")

    def _warmup(self):
        self._json({"content_hash!": str})
        raise _Refused(400, "warmup unsupported without tenant + extension context")

    def _healthz(self):
        found = {"cache_writable": True, "bundle_store": "ok", "ext_cache_max_bytes": None}
        self._answer(200, json.dumps(found).encode(), "application/json")

    def _file(self, url):
        tenant = parse_qs(url.query).get("tenant", [self.headers.get("X-Tenant-Id", "")])[0]
        status, found = self.rust.file(url.path.removeprefix("/ext-ui/"), tenant)
        if status != 200:
            return self._answer(status, found)
        data = found.read_bytes()
        etag = f'"sha256-{hashlib.sha256(data).hexdigest()}"'
        asked = self.headers.get("If-None-Match", "").split(",")
        if {"*", etag} & {tag.strip() for tag in asked}:
            return self._answer(304, etag=etag)
        kind = "text/javascript" if found.suffix == ".js" else guess_type(found)[0]
        return self._answer(200, data, kind or "application/octet-stream", etag=etag)

    def _answer(self, status, body=b"", kind="text/plain; charset=utf-8", **headers):
        # No marker, no name of a server; and one Cache-Control for everything, errors included.
        self.send_response_only(status, HTTPStatus(status).phrase)
        if body:
            headers = {"content-type": kind, **headers}
        headers |= {"cache-control": IMMUTABLE, "date": self.date_time_string()}
        if status != 304:
            headers["content-length"] = len(body)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


ROUTES = {
    "/v1/execute": ("POST", _Handler._execute),
    "/warmup": ("POST", _Handler._warmup),
    "/healthz": ("GET", _Handler._healthz),
}
