from concurrent.futures import ThreadPoolExecutor

import pytest

from runnerwsgi.capabilities.storage import Storage
from runnerwsgi.errors import CapabilityError


@pytest.fixture
def url(database_url):
    return database_url


@pytest.fixture
def storage(installs):
    return Storage(installs.database)


def entry(key="k", value=b"v", revision=None, namespace="n"):
    return {"namespace": namespace, "key": key, "value": value, "revision": revision}


def refusal(function, *args):
    with pytest.raises(CapabilityError) as refused:
        function(*args)
    return refused.value.case


def keys(entries):
    return [one["key"] for one in entries]


@pytest.mark.parametrize("value", [b"", b"\x00\xff" * 100, b"x" * 1_048_576], ids=len)
def test_what_was_put_is_got(storage, call, value):
    put = storage.put(call, entry(value=value))
    assert put == entry(value=value, revision=1)
    assert storage.get(call, "n", "k") == put


def test_revisions_rise_and_the_last_write_wins_without_one(storage, call):
    assert [storage.put(call, entry(value=b"%d" % n))["revision"] for n in range(3)] == [1, 2, 3]
    assert storage.get(call, "n", "k")["value"] == b"2"


def test_the_revision_may_be_left_out(storage, call):
    assert storage.put(call, {"namespace": "n", "key": "k", "value": b"v"})["revision"] == 1


def test_a_write_with_the_right_revision_succeeds(storage, call):
    first = storage.put(call, entry(revision=0))
    assert storage.put(call, {**first, "value": b"w"})["revision"] == 2


@pytest.mark.parametrize("revision", [0, 1, 3, 2**64 - 1])
def test_a_write_with_another_revision_is_a_conflict_and_changes_nothing(storage, call, revision):
    storage.put(call, entry())
    now = storage.put(call, entry(value=b"w"))
    assert refusal(storage.put, call, entry(value=b"x", revision=revision)) == "conflict"
    assert storage.get(call, "n", "k") == now


def test_a_write_with_a_revision_of_nothing_is_a_conflict(storage, call):
    assert refusal(storage.put, call, entry(revision=1)) == "conflict"


def test_a_key_that_comes_back_goes_on_above_its_old_revisions(storage, call):
    for _ in range(3):
        stale = storage.put(call, entry())
    storage.delete(call, "n", "k")
    assert storage.put(call, entry(revision=0))["revision"] == 4
    assert refusal(storage.put, call, stale) == "conflict"


def test_what_was_deleted_is_missing(storage, call):
    storage.put(call, entry())
    assert storage.delete(call, "n", "k") is None
    assert refusal(storage.get, call, "n", "k") == "missing"
    assert refusal(storage.delete, call, "n", "k") == "missing"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"tenant_id": "other"}, id="another tenant"),
        pytest.param({"extension_id": "demo.other"}, id="another extension"),
    ],
)
def test_nobody_else_sees_an_entry(storage, make_call, other):
    mine, theirs = make_call(), make_call(**other)
    storage.put(mine, entry())
    assert refusal(storage.get, theirs, "n", "k") == "missing"
    assert refusal(storage.delete, theirs, "n", "k") == "missing"
    assert storage.list_entries(theirs, "n", None) == []
    storage.put(theirs, entry(value=b"theirs", revision=0))
    assert storage.get(mine, "n", "k")["value"] == b"v"


def test_another_install_of_the_same_extension_finds_its_entries_again(storage, make_call):
    storage.put(make_call(install_id="i1"), entry())
    assert storage.get(make_call(install_id="i2"), "n", "k")["value"] == b"v"


def test_namespaces_are_apart(storage, call):
    storage.put(call, entry(namespace="a"))
    assert refusal(storage.get, call, "b", "k") == "missing"
    assert storage.list_entries(call, "b", None) == []
    assert keys(storage.list_entries(call, "a", None)) == ["k"]


def test_a_walk_by_pages_sees_every_entry_once_in_order(storage, call):
    names = [f"{n:03}" for n in range(205)]
    for name in reversed(names):
        storage.put(call, entry(name))
    pages, cursor = [], None
    while page := storage.list_entries(call, "n", cursor):
        pages.append(keys(page))
        cursor = page[-1]["key"]
    assert list(map(len, pages)) == [100, 100, 5]
    assert [key for page in pages for key in page] == names


def test_a_walk_goes_on_although_its_last_entry_was_deleted(storage, call):
    for name in "abc":
        storage.put(call, entry(name))
    storage.delete(call, "n", "b")
    assert keys(storage.list_entries(call, "n", "b")) == ["c"]


def test_pages_are_in_the_order_of_code_points(storage, call):
    names = ["B", "Z", "_", "a", "a-b", "ab", "b", "é", "ы", "🗝"]
    for name in reversed(names):
        storage.put(call, entry(name))
    assert keys(storage.list_entries(call, "n", None)) == names
    assert keys(storage.list_entries(call, "n", "_")) == names[3:]


def test_a_page_of_large_values_is_short_and_never_empty(storage, call):
    for name in "abcde":
        storage.put(call, entry(name, b"x" * 1_048_576))
    assert keys(storage.list_entries(call, "n", None)) == ["a", "b"]
    assert keys(storage.list_entries(call, "n", "d")) == ["e"]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"key": ""}, id="no key"),
        pytest.param({"key": "k" * 513}, id="long key"),
        pytest.param({"key": "é" * 257}, id="key of too many bytes"),
        pytest.param({"key": "a\x00b"}, id="null in the key"),
        pytest.param({"key": "\ud800"}, id="half a character"),
        pytest.param({"namespace": ""}, id="no namespace"),
        pytest.param({"namespace": "n" * 129}, id="long namespace"),
        pytest.param({"value": b"x" * 1_048_577}, id="long value"),
    ],
)
def test_what_is_too_long_or_unreadable_is_denied(storage, call, wrong):
    assert refusal(storage.put, call, entry(**wrong)) == "denied"
    assert storage.list_entries(call, "n", None) == []


@pytest.mark.parametrize("key", ["k" * 512, "é" * 256, "../../x", "' OR 1=1 --", "%", "ключ 🗝"])
def test_any_readable_key_is_a_key(storage, call, key):
    storage.put(call, entry(key))
    assert storage.get(call, "n", key)["key"] == key
    assert keys(storage.list_entries(call, "n", None)) == [key]


def test_a_cursor_that_is_no_key_is_denied(storage, call):
    assert refusal(storage.list_entries, call, "n", "k" * 513) == "denied"


def test_a_quota_of_entries_holds_for_one_extension_of_one_tenant(installs, make_call):
    storage = Storage(installs.database, max_entries=2)
    call = make_call()
    for name in "ab":
        storage.put(call, entry(name))
    assert refusal(storage.put, call, entry("c")) == "denied"
    storage.put(call, entry("a", b"an old entry may change"))
    storage.put(make_call(tenant_id="other"), entry("c"))
    storage.delete(call, "n", "a")
    storage.put(call, entry("c"))


def test_a_quota_of_bytes_counts_what_is_there_now(installs, call):
    storage = Storage(installs.database, max_bytes=10)
    storage.put(call, entry("a", b"x" * 10))
    assert refusal(storage.put, call, entry("b", b"x")) == "denied"
    assert refusal(storage.put, call, entry("a", b"x" * 11)) == "denied"
    storage.put(call, entry("a", b"x" * 4))
    storage.put(call, entry("b", b"x" * 6))
    storage.delete(call, "n", "b")
    storage.put(call, entry("c", b"x" * 6))


def test_under_a_quota_that_was_lowered_entries_may_still_shrink(installs, call):
    Storage(installs.database).put(call, entry("a", b"x" * 100))
    storage = Storage(installs.database, max_bytes=10)
    storage.put(call, entry("a", b"x" * 50))
    assert refusal(storage.put, call, entry("a", b"x" * 51)) == "denied"


def test_of_writers_at_once_with_one_revision_just_one_wins(storage, call):
    first = storage.put(call, entry())

    def write(number):
        try:
            return storage.put(call, {**first, "value": b"%d" % number})["value"]
        except CapabilityError as refused:
            return refused.case

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(write, range(16)))
    assert outcomes.count("conflict") == 15
    assert storage.get(call, "n", "k")["value"] in outcomes


def test_counters_lose_no_update_when_writers_compare_and_set(storage, call):
    storage.put(call, entry(value=b"0"))

    def increment(_):
        while True:
            now = storage.get(call, "n", "k")
            try:
                return storage.put(call, {**now, "value": b"%d" % (int(now["value"]) + 1)})
            except CapabilityError as refused:
                if refused.case != "conflict":
                    raise

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, range(20)))
    assert storage.get(call, "n", "k") == entry(value=b"20", revision=21)
