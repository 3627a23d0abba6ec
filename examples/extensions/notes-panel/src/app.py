"""Notes about a customer: kept in the extension's storage, shown in its panel.

A component of the world `runner`: componentize-py finds the class WitWorld in this module and
exports its method `handler`. Nothing lives longer than one call; what must stay goes to storage.
"""

import json
import re
import time
import uuid
from urllib.parse import parse_qs, urlsplit

import wit_world
from componentize_py_types import Err
from wit_world.imports import logging, storage, user_v2
from wit_world.imports.types import ExecuteResponse, HttpHeader, StorageEntry

CUSTOMER = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
NOTE_PATH = re.compile(r"/notes/([0-9]+-[0-9a-f]+)")
MAX_TEXT = 500
MAX_NOTES = 200


class Refused(Exception):
    """What the caller did wrong, as a status and a sentence for the panel."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class WitWorld(wit_world.WitWorld):
    """The component's one export."""

    def handler(self, request):
        try:
            return answer(200, route(request))
        except Refused as error:
            return answer(error.status, {"error": str(error)})


def route(request):
    url = urlsplit(request.http.url)
    customer = asked_customer(url)
    if url.path == "/notes" and request.http.method == "GET":
        return panel(request, customer)
    if url.path == "/notes" and request.http.method == "POST":
        return add(request, customer)
    note = NOTE_PATH.fullmatch(url.path)
    if note and request.http.method == "DELETE":
        return remove(customer, note[1])
    raise Refused(404, "There is nothing at this address.")


def asked_customer(url):
    customer = parse_qs(url.query).get("customer", ["general"])[0]
    if not CUSTOMER.fullmatch(customer):
        raise Refused(400, "The customer is not named properly.")
    return customer


def panel(request, customer):
    notes = stored_notes(customer)
    return {
        "greeting": config(request, "greeting", "Hello"),
        "user": signed_in(),
        "notes": notes,
        "count": len(notes),
    }


def add(request, customer):
    text = note_text(request.http.body)
    if len(stored_notes(customer)) >= MAX_NOTES:
        raise Refused(409, f"This customer has {MAX_NOTES} notes. Delete one first.")
    # Keys sort by time, so the newest note is the last one of a listing.
    note_id = f"{time.time_ns() // 1_000_000:013d}-{uuid.uuid4().hex[:8]}"
    note = {"id": note_id, "text": text, "author": signed_in()["name"], "at": int(time.time())}
    storage.put(StorageEntry(namespace(customer), note_id, json.dumps(note).encode(), None))
    logging.log_info(f"note {note_id} added for {customer}")
    return {"note": note}


def remove(customer, note_id):
    try:
        storage.delete(namespace(customer), note_id)
    except Err as error:
        if error.value.name != "MISSING":
            raise
        raise Refused(404, "This note is already gone.") from error
    logging.log_info(f"note {note_id} deleted for {customer}")
    return {"deleted": note_id}


def note_text(body):
    try:
        text = json.loads(body or b"")["text"].strip()
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Refused(400, 'A note is sent as {"text": "…"}.') from None
    if not 0 < len(text) <= MAX_TEXT:
        raise Refused(422, f"A note has 1 to {MAX_TEXT} characters.")
    return text


def namespace(customer):
    return f"notes-{customer}"


def stored_notes(customer):
    """All notes of a customer, newest first. A listing comes in pages: ask on from its last key."""
    entries, cursor = [], None
    while page := storage.list_entries(namespace(customer), cursor):
        entries += page
        cursor = page[-1].key
    return [json.loads(entry.value) for entry in reversed(entries)]


def signed_in():
    """Who is calling: the host application says it, the page cannot."""
    try:
        user = user_v2.get_user()
    except Err:
        return {"name": "Somebody", "role": "", "may_delete": False}
    role = dict(user.additional_fields).get("role", "")
    return {"name": user.user_name or user.user_id, "role": role, "may_delete": role == "admin"}


def config(request, key, default):
    """A value of the install's configuration: `runnerwsgi install … --config key=value`."""
    wanted = f"x-ext-config-{key}"
    return next((h.value for h in request.http.headers if h.name == wanted), default)


def answer(status, value):
    body = json.dumps(value, ensure_ascii=False).encode()
    return ExecuteResponse(status, [HttpHeader("content-type", "application/json")], body)
