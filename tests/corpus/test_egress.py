"""The corpus's hostile fetches: refused before anything is connected; and the controls."""

import time

import pytest
from capabilities.servers import Dialler, Names, serving
from corpus.cases import due, title_of

from runnerwsgi.capabilities import Call
from runnerwsgi.capabilities.egress import Egress
from runnerwsgi.errors import CapabilityError

CASES = {row.values[0]["id"]: row.values[0] for row in due("test_egress")}
DENIED = [case for case in CASES.values() if case["expect"].get("outcome") == "denied"]
REFUSALS = {"invalid-url", "not-allowed"}


def names_of(case):
    """The case's DNS; a text that is no address is a script of the server, not a record."""
    records = {
        name: [found] if isinstance(found, str) else found
        for name, found in case["input"].get("dns", {}).items()
        if isinstance(found, list) or found[0].isdigit()
    }
    names = Names()
    # Every name is there and public, so that nothing but the rules can stop a fetch.
    names.addresses = records
    return lambda host, port: names.addresses.get(host) or ["93.184.216.34"]


def fetch(egress, url, allow, timeout=5.0):
    call = Call("t1", "acme.hello", request_id="r1", timeout=timeout, egress=tuple(allow))
    return egress.fetch(call, {"method": "GET", "url": url, "headers": [], "body": None})


def test_the_corpus_has_its_cases():
    assert len(CASES) == 26
    assert len(DENIED) == 24


@pytest.mark.parametrize("case", DENIED, ids=map(title_of, DENIED))
def test_a_hostile_fetch_is_denied_before_anything_is_connected(case):
    dialler = Dialler()
    allow = case["input"]["allow"]
    egress = Egress(allow, resolve=names_of(case), connect=dialler)
    with pytest.raises(CapabilityError) as refused:
        fetch(egress, case["input"]["fetch"], allow)
    assert refused.value.case in REFUSALS
    assert len(dialler.dialled) == case["expect"]["connects"]


def test_an_allowed_fetch_connects_to_the_checked_address_only():
    case = CASES["G-057"]
    dialler = Dialler()
    allow = case["input"]["allow"]
    egress = Egress(allow, resolve=names_of(case), connect=dialler)
    with pytest.raises(CapabilityError, match="nobody is there"):
        fetch(egress, case["input"]["fetch"], allow)
    assert dialler.dialled == [("93.184.216.34", 80)]


def endless(head, block):
    sent = []

    def answer(connection, request):
        connection.sendall(head)
        while True:
            connection.sendall(block)
            sent.append(len(block))

    return answer, sent


BOMBS = {
    "without a length": (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
    "in chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"10000\r\n" + b"x" * 65536 + b"\r\n",
    ),
    "in its headers": (b"HTTP/1.1 200 OK\r\n", b"X-Pad: " + b"x" * 1000 + b"\r\n"),
    "in one header": (b"HTTP/1.1 200 OK\r\nX-Pad: ", b"x" * 65536),
    "in interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_of_an_answer_stops_at_the_cap_or_the_deadline(bomb):
    case = CASES["G-059"]
    allow = CASES["G-057"]["input"]["allow"]
    answer, sent = endless(*bomb)
    cap, budget = 200_000, 0.5
    with serving(answer) as port:
        egress = Egress(
            allow, max_bytes=cap, resolve=names_of(CASES["G-057"]), connect=Dialler(port)
        )
        started = time.monotonic()
        with pytest.raises(CapabilityError) as refused:
            fetch(egress, case["input"]["fetch"], allow, timeout=budget)
        took = time.monotonic() - started
    assert refused.value.case == "transport"
    assert took < budget + 1.5
    # What the kernel's buffers hold comes on top of what was read.
    assert bomb is BOMBS["in interim answers"] or sum(sent) < cap + 8 * 2**20
