"""A guest made with componentize-py: each path tries one thing that its world offers."""

import json
import os
import random
import socket
import sys
import time

import wit_world
from componentize_py_types import Err
from wit_world.imports import (
    context,
    http,
    invoicing,
    logging,
    scheduler,
    secrets,
    storage,
    ui_proxy,
    user,
    user_v2,
)
from wit_world.imports.types import (
    CreateManualInvoiceInput,
    ExecuteRequest,
    ExecuteResponse,
    HttpHeader,
    HttpRequest,
    ManualInvoiceItemInput,
    StorageEntry,
)


def everything(request):
    print("to stdout")
    print("to stderr", file=sys.stderr)
    logging.log_info("info")
    logging.log_warn("warn")
    logging.log_error("error")
    entry = storage.put(StorageEntry("notes", "1", b"\x00\xff", None))
    fetched = http.fetch(HttpRequest("GET", "https://api.example/", [HttpHeader("a", "b")], None))
    return {
        "tenant": context.get_context().tenant_id,
        "secret": secrets.get("token"),
        "keys": secrets.list_keys(),
        "route": ui_proxy.call_route("/api/me", b"payload").decode(),
        "revision": entry.revision,
        "entries": [found.key for found in storage.list_entries("notes", None)],
        "user": user.get_user().user_name,
        "fields": user_v2.get_user().additional_fields,
        "fetched": fetched.status,
    }


def refused(request):
    try:
        secrets.get("token")
    except Err as error:
        return {"refused": error.value.name}


def store(request):
    """Write, find, fail to write over it, remove, fail to find."""
    entry = storage.put(StorageEntry("notes", "a", b"\x00\xff\x80", None))
    found = storage.get("notes", "a")
    return {
        "kept": found.value.hex(),
        "revision": entry.revision,
        "keys": [each.key for each in storage.list_entries("notes", None)],
        "conflict": case_of(lambda: storage.put(StorageEntry("notes", "a", b"", 7))),
        "gone": storage.delete("notes", "a") or case_of(lambda: storage.get("notes", "a")),
    }


def case_of(ask):
    try:
        ask()
    except Err as error:
        return error.value.name


def invoice(request):
    item = ManualInvoiceItemInput("s1", 2.0, "Pruning", 40.5, None, None, None, None)
    made = invoicing.create_manual_invoice(
        CreateManualInvoiceInput("c1", [item], "2030-01-31", None, None)
    )
    return {"success": made.success, "number": made.invoice_number, "total": made.total}


def schedules(request):
    try:
        return {"crons": [found.cron for found in scheduler.list_schedules()]}
    except Err as error:
        return {"refused": error.value.name}


def surroundings(request):
    try:
        found = os.listdir("/")
    except OSError:
        found = []
    return {
        "environ": dict(os.environ),
        "files": found,
        "stdin": sys.stdin.read() if sys.stdin else "",
        "random": random.SystemRandom().randbytes(8).hex(),
        "year": time.gmtime().tm_year,
    }


def connect(request):
    socket.socket().connect(("127.0.0.1", 9))


def sleep(request):
    time.sleep(float(request.http.url.partition("?")[2]))
    return {}


def hoard(request):
    return {"size": len(bytearray(10**9))}


def fail(request):
    raise RuntimeError("told to")


PATHS = {
    "/": everything,
    "/refused": refused,
    "/store": store,
    "/invoice": invoice,
    "/schedules": schedules,
    "/surroundings": surroundings,
    "/connect": connect,
    "/sleep": sleep,
    "/hoard": hoard,
    "/fail": fail,
}


class WitWorld(wit_world.WitWorld):
    def handler(self, request: ExecuteRequest) -> ExecuteResponse:
        if request.http.body is not None:
            return ExecuteResponse(200, request.http.headers, request.http.body)
        answer = PATHS[request.http.url.partition("?")[0]](request)
        headers = [HttpHeader("Content-Type", "application/json")]
        return ExecuteResponse(201, headers, json.dumps(answer).encode())
