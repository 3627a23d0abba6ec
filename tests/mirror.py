"""An extension that shows what reached it, and hides nothing of what it does."""

import json
from contextlib import closing

from support import pack_files
from wasm.rig import LOG, Import, guest
from wasmtime import wat2wasm

from runnerwsgi import Gateway, Installs
from runnerwsgi.protocol import Bundle
from runnerwsgi.stores import open_store

RANDOM = Import(
    "wasi:random/random@0.2.0",
    '(export "get-random-u64" (func (result u64)))',
    "get-random-u64",
    "(result i64)",
)
# The texts of four headers at 1088, and where each is: name, its size, value, its size.
NAMES = "content-typetext/plain; charset=utf-8x-ext-twoonex-ext-count0two"
PLACES = (
    *(1088, 12, 1100, 25),
    *(1125, 9, 1134, 3),
    *(1125, 9, 1149, 3),
    *(1137, 11, 1148, 1),
)
HEADERS = "".join(f"\\{byte:02x}" for place in PLACES for byte in place.to_bytes(4, "little"))
# Answers with the request's body, or its URL where there is none; the headers say more. Logs
# the URL. Traps at an address that begins with /b; answers with eight bytes of chance at /c….
MIRROR = guest(
    """
    (if (i32.eq (i32.load8_u (i32.add (i32.load offset=60 (local.get $request)) (i32.const 1)))
        (i32.const 98)) (then unreachable))
    (call $f0 (i32.load offset=60 (local.get $request)) (i32.load offset=64 (local.get $request)))
    (i32.store16 (i32.const 512) (i32.const 200))
    (i32.store (i32.const 516) (i32.const 544)) (i32.store (i32.const 520) (i32.const 4))
    (memory.copy (i32.const 544) (i32.const 1024) (i32.const 64))
    (i32.store8 (i32.const 1148) (i32.add (i32.const 48) (i32.load offset=72 (local.get $request))))
    (i32.store8 (i32.const 524) (i32.const 1))
    (if (i32.load8_u offset=76 (local.get $request))
      (then (i64.store (i32.const 528) (i64.load offset=80 (local.get $request))))
      (else (i64.store (i32.const 528) (i64.load offset=60 (local.get $request)))))
    (if (i32.eq (i32.load8_u (i32.add (i32.load offset=60 (local.get $request)) (i32.const 1)))
        (i32.const 99))
      (then
        (i64.store (i32.const 1200) (call $f1))
        (i64.store (i32.const 528) (i64.const 0x8000004b0))))
    (i32.const 512)""",
    imports=(LOG, RANDOM),
    data=f'(data (i32.const 1088) "{NAMES}") (data (i32.const 1024) "{HEADERS}")',
)
ENDPOINTS = [
    {"method": "GET", "path": "/things/:id"},
    {"method": "POST", "path": "/things"},
    {"method": "GET", "path": "/boom"},
    {"method": "GET", "path": "/chance"},
]
MANIFEST = {
    "name": "demo.mirror",
    "version": "1.0.0",
    "runtime": "wasm@1",
    "api": {"endpoints": [{**each, "handler": "dist/main"} for each in ENDPOINTS]},
}


def install(home, source):
    """Install it in *home* for the tenant `default`, and compile what will be run there."""
    files = {"manifest.json": json.dumps(MANIFEST).encode(), "dist/main.wasm": wat2wasm(MIRROR)}
    settings, gateway = Gateway.configure({"RUNNER_HOME": str(home), "RUNNER_BACKEND": "wasm"})
    settings.make_home()
    with gateway, closing(Installs.from_settings(settings)) as installs:
        bundle = open_store(settings).add(pack_files(source, files))
        grants = ["cap:storage.kv"]  # so that runners are told where to ask
        at = ("default", "demo.mirror", bundle.content_hash, bundle.manifest)
        installs.add(*at, grants=grants)
        gateway.probe(30_000)
        gateway.warm_up(Bundle("default", "demo.mirror", bundle.content_hash))
