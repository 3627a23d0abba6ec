"""Guests written as text, a backend to run them, and the calls they get."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field

import wasmtime
from runnerwsgi_wasm.backend import WasmBackend
from runnerwsgi_wasm.process import Options
from support import pack_files

from runnerwsgi.bundles import BundleStore
from runnerwsgi.errors import BundleUnavailable, CapabilityError
from runnerwsgi.protocol import Bundle, Context, ExecuteRequest, HttpRequest, Limits

TYPES = """
  (import "alga:extension/types" (instance $types
    (type $context-data' (record
      (field "request-id" (option string)) (field "tenant-id" string)
      (field "extension-id" string) (field "install-id" (option string))
      (field "version-id" (option string))))
    (export "context-data" (type $context-data (eq $context-data')))
    (type $header' (record (field "name" string) (field "value" string)))
    (export "http-header" (type $header (eq $header')))
    (type $http' (record
      (field "method" string) (field "url" string) (field "headers" (list $header))
      (field "body" (option (list u8)))))
    (export "http-request" (type $http (eq $http')))
    (type $request' (record (field "context" $context-data) (field "http" $http)))
    (export "execute-request" (type (eq $request')))
    (type $response' (record
      (field "status" u16) (field "headers" (list $header)) (field "body" (option (list u8)))))
    (export "execute-response" (type (eq $response')))))
  (alias export $types "execute-request" (type $request'))
  (import "execute-request" (type $request (eq $request')))
  (alias export $types "execute-response" (type $response'))
  (import "execute-response" (type $response (eq $response')))
"""

LIBC = """
  (core module $libc
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 4096))
    (func (export "realloc") (param $old i32) (param $old-size i32) (param i32 i32) (result i32)
      (local $at i32)
      (if (i32.le_u (local.get 3) (local.get $old-size)) (then (return (local.get $old))))
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (block $enough
        (br_if $enough (i32.le_u (global.get $top)
          (i32.mul (memory.size) (i32.const 65536))))
        (if (i32.eq (memory.grow (i32.const 64)) (i32.const -1)) (then unreachable)))
      (memory.copy (local.get $at) (local.get $old) (local.get $old-size))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
"""

# Where a handler writes its response: status 512, headers 516 (at, count), body 524 (is there
# one) 528 (at) 532 (size); the instance is fresh, so what is not written is zero.
OK = "(i32.store16 (i32.const 512) (i32.const 200)) (i32.const 512)"


@dataclass(frozen=True)
class Import:
    """One host function: its interface as WAT, its name there, its core type."""

    interface: str
    items: str
    function: str
    core: str = ""


def guest(code=OK, *, imports=(), data="", modules="", links="", taken=""):
    """A component whose handler runs *code*; imports are called as $f0, $f1 …"""
    declared = "".join(
        f'(import "{one.interface}" (instance $i{n} {one.items}))\n'
        for n, one in enumerate(imports)
    )
    lowered = "".join(
        f'(core func $f{n} (canon lower (func $i{n} "{one.function}")'
        ' (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))\n'
        for n, one in enumerate(imports)
    )
    taken += "".join(
        f'(import "host" "f{n}" (func $f{n} {one.core}))\n' for n, one in enumerate(imports)
    )
    given = " ".join(f'(export "f{n}" (func $f{n}))' for n in range(len(imports)))
    return f"""(component {TYPES} {declared} {LIBC} {lowered} {modules}
  (core module $code
    (import "libc" "memory" (memory 1))
    {taken}
    {data}
    (func (export "handler") (param $request i32) (result i32) {code}))
  (core instance $host {given})
  (core instance $main (instantiate $code
    (with "libc" (instance $libc)) (with "host" (instance $host)) {links}))
  (func $handler (param "request" $request) (result $response)
    (canon lift (core func $main "handler")
      (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (export "handler" (func $handler)))"""


def header_guest(name, value, status=200):
    """A guest that answers with one header."""
    return guest(
        f"""(i32.store16 (i32.const 512) (i32.const {status}))
        (i32.store (i32.const 516) (i32.const 544)) (i32.store (i32.const 520) (i32.const 1))
        (i32.store (i32.const 544) (i32.const 1024))
        (i32.store (i32.const 548) (i32.const {len(name)}))
        (i32.store (i32.const 552) (i32.const 1536))
        (i32.store (i32.const 556) (i32.const {len(value)}))
        (i32.const 512)""",
        data=f'(data (i32.const 1024) "{_escaped(name)}")'
        f'(data (i32.const 1536) "{_escaped(value)}")',
    )


def body_guest(at, size):
    """A guest that answers with a body that is said to be at *at*."""
    return guest(
        f"""(i32.store16 (i32.const 512) (i32.const 200)) (i32.store8 (i32.const 524) (i32.const 1))
        (i32.store (i32.const 528) (i32.const {at})) (i32.store (i32.const 532) (i32.const {size}))
        (i32.const 512)"""
    )


def _escaped(text):
    return "".join(f"\\{byte:02x}" for byte in text.encode())


LOG = Import(
    "alga:extension/logging",
    '(export "log-info" (func (param "message" string)))',
    "log-info",
    "(param i32 i32)",
)
PROXY = Import(
    "alga:extension/ui-proxy",
    '(type $e (enum "route-not-found" "denied" "bad-request" "internal"))'
    '(export "proxy-error" (type $error (eq $e)))'
    '(export "call-route" (func (param "route" string) (param "payload" (option (list u8)))'
    " (result (result (list u8) (error $error)))))",
    "call-route",
    "(param i32 i32 i32 i32 i32 i32)",
)
SECRET_KEYS = Import(
    "alga:extension/secrets",
    '(export "list-keys" (func (result (list string))))',
    "list-keys",
    "(param i32)",
)
NOBODYS = Import(
    "acme:doors/door@1.2.0", '(export "open" (func (result u32)))', "open", "(result i32)"
)
CLIENTS = Import(
    "alga:extension/clients", '(export "count" (func (result u32)))', "count", "(result i32)"
)
SOCKET = Import(
    "wasi:sockets/tcp-create-socket@0.2.0",
    '(export "tcp-socket" (type $s (sub resource)))'
    '(export "create-tcp-socket" (func (param "address-family" u8) (result (own $s))))',
    "create-tcp-socket",
    "(param i32) (result i32)",
)
TIMER = Import(
    "wasi:clocks/monotonic-clock@0.2.0",
    '(export "pollable" (type $p (sub resource)))'
    '(export "subscribe-duration" (func (param "when" u64) (result (own $p))))',
    "subscribe-duration",
    "(param i64) (result i32)",
)

# Calls $f0, a call-route of "/x" without a payload. Its result is at 600: 0 or 1, then the
# list or, at 604, the error's case; the answer's status is 200, or 300 and the case.
CALL_ROUTE = """
  (call $f0 (i32.const 1024) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 600))
  (i32.store16 (i32.const 512) (if (result i32) (i32.load8_u (i32.const 600))
    (then (i32.add (i32.const 300) (i32.load8_u (i32.const 604))))
    (else (i32.const 200))))
  (i32.const 512)"""
ROUTE = '(data (i32.const 1024) "/x")'


@dataclass
class Capabilities:
    """A request's capabilities that answer as a test says, and keep what they were asked."""

    answer: object = b""
    asked: list = field(default_factory=list)

    def call(self, interface, function, args, timeout):
        self.asked.append((interface, function, args, timeout))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(*args) if callable(self.answer) else self.answer


DENIED = CapabilityError("denied")


class Rig:
    """A backend with a bundle store and a code cache of its own.

    *files* are what bundles hold beside their component: a manifest, unless told otherwise.
    """

    def __init__(self, folder, *, cache_dir=None, files=None, **options):
        self.folder, self._files = folder, files
        self.store = BundleStore(folder / "bundles")
        options = {"compile_timeout_ms": 30_000} | options
        self.backend = WasmBackend(self.store, Options(cache_dir or folder / "code", **options))
        self._hashes = {}

    @property
    def counters(self):
        """How often the backend compiled, loaded a file, and had the guest in memory."""
        metadata = self.backend.runner_metadata()
        return tuple(metadata[name] for name in ("compiled", "loaded", "hits"))

    def add(self, component):
        """The content hash of a bundle with this component: text, binary, or None."""
        if component not in self._hashes:
            self._hashes[component] = self._pack(component)
        return self._hashes[component]

    def _pack(self, component):
        name = f"acme.guest{len(self._hashes)}"
        own = {"manifest.json": json.dumps({"name": name, "version": "1.0.0"}).encode()}
        files = dict(self._files or own)
        if component is not None:
            is_text = isinstance(component, str)
            files["dist/main.wasm"] = bytes(wasmtime.wat2wasm(component) if is_text else component)
        return self.store.add(pack_files(self.folder / "sources" / name, files)).content_hash

    def request(self, component, http=None, *, timeout_ms=5000, capabilities=None, **limits):
        """A call of the component's handler."""
        return ExecuteRequest(
            Context("acme", "acme.guest", self.add(component), "r-1", "i-1", "1.0.0"),
            http or HttpRequest("GET", "/things", "a=1"),
            Limits(timeout_ms, **limits),
            capabilities=capabilities or Capabilities(),
        )

    def run(self, component, http=None, **more):
        """Call the component's handler; it is compiled before, so that its time is its own."""
        with suppress(BundleUnavailable):  # the call itself says why
            self.warm_up(component)
        return self.backend.runner_execute(self.request(component, http, **more))

    def timed(self, component, **more):
        """The answer, and the seconds it took; the component is made ready before."""
        request = self.request(component, **more)
        self.warm_up(component)
        started = time.monotonic()
        response = self.backend.runner_execute(request)
        return response, time.monotonic() - started

    def warm_up(self, component):
        """Make a component ready."""
        return self.backend.runner_warm_up(Bundle("acme", "acme.guest", self.add(component)))
