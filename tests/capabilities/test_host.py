"""The choke point: grants, error cases and what a guest gets to see of a failure."""

import logging

import pytest

from runnerwsgi.capabilities import (
    INTERFACES,
    HostCapabilities,
    check_provided,
    functions,
    merge,
)
from runnerwsgi.errors import CapabilityError, ConfigurationError, StorageError, UnknownCapability
from runnerwsgi.manifest import DEFAULT_GRANTS
from runnerwsgi.settings import Settings

CANARY = "canary-91ab"
FUNCTIONS = [(name, function) for name, row in INTERFACES.items() for function in row.functions]
ALL = frozenset(row.capability for row in INTERFACES.values())


def answer(call, *args):
    return (call, args)


EVERYTHING = {name: dict.fromkeys(row.functions, answer) for name, row in INTERFACES.items()}


@pytest.mark.parametrize(("interface", "function"), FUNCTIONS)
def test_a_granted_function_gets_the_call_and_its_arguments(call, interface, function):
    host = HostCapabilities(call, ALL, EVERYTHING)
    found, args = host.call(interface, function, ("a", 1), 1.5)
    assert args == ("a", 1)
    assert (found.tenant_id, found.request_id, found.timeout) == ("acme", "r1", 1.5)


@pytest.mark.parametrize(("interface", "function"), FUNCTIONS)
def test_without_its_grant_a_function_is_refused_and_not_run(call, interface, function):
    ran = []
    spying = {interface: {function: lambda *args: ran.append(args)}}
    row = INTERFACES[interface]
    host = HostCapabilities(call, ALL - {row.capability}, spying)
    if row.capability in DEFAULT_GRANTS:
        host.call(interface, function, (), 1.0)
        assert len(ran) == 1
        return
    with pytest.raises((CapabilityError, UnknownCapability), match=row.capability):
        host.call(interface, function, (), 1.0)
    assert ran == []


@pytest.mark.parametrize(
    ("interface", "function", "case"),
    [
        ("secrets", "get", "denied"),
        ("http", "fetch", "not-allowed"),
        ("storage", "get", "denied"),
        ("ui-proxy", "call-route", "denied"),
        ("scheduler", "list-schedules", "denied"),
        ("clients", "list-clients", "not-allowed"),
        ("services", "get-service", "not-allowed"),
    ],
)
def test_a_missing_grant_is_the_interfaces_own_error(call, interface, function, case):
    with pytest.raises(CapabilityError) as refused:
        HostCapabilities(call, (), EVERYTHING).call(interface, function, (), 1.0)
    assert refused.value.case == case


@pytest.mark.parametrize(
    ("interface", "function"),
    [
        ("invoicing", "create-manual-invoice"),
        ("secrets", "list-keys"),
        ("scheduler", "create-schedule"),
    ],
)
def test_without_an_error_case_a_missing_grant_traps_and_names_the_capability(
    call, interface, function
):
    with pytest.raises(UnknownCapability, match=INTERFACES[interface].capability):
        HostCapabilities(call, (), EVERYTHING).call(interface, function, (), 1.0)


@pytest.mark.parametrize(
    ("interface", "function", "says"),
    [
        pytest.param(
            "invoicing",
            "create-manual-invoice",
            "cap:invoice.manual.create",
            id="known but provided by nobody",
        ),
        pytest.param("storage", "drop-table", "storage.drop-table", id="unknown function"),
        pytest.param("weather", "today", "cap:weather", id="unknown interface"),
    ],
)
def test_what_nobody_provides_names_the_function_and_the_capability(
    call, interface, function, says
):
    host = HostCapabilities(call, {*ALL, "cap:weather"}, {})
    with pytest.raises(UnknownCapability, match=says):
        host.call(interface, function, (), 1.0)


def raising(error):
    def function(call, *args):
        raise error

    return function


@pytest.mark.parametrize(
    ("interface", "function", "case"),
    [
        ("storage", "get", "internal"),
        ("http", "fetch", "internal"),
        ("user", "get-user", "not-available"),
        ("invoicing", "create-manual-invoice", "internal"),
    ],
)
@pytest.mark.parametrize("error", [KeyError(CANARY), StorageError(CANARY)], ids=repr)
def test_a_foreign_exception_is_logged_and_never_shown(
    call, caplog, interface, function, case, error
):
    host = HostCapabilities(call, ALL, {interface: {function: raising(error)}})
    with pytest.raises(CapabilityError) as failed:
        host.call(interface, function, (), 1.0)
    assert failed.value.case == case
    assert CANARY not in str(failed.value)
    assert CANARY in caplog.text
    assert "request_id=r1" in caplog.text


def test_an_error_case_of_the_enum_passes(call, caplog):
    host = HostCapabilities(call, ALL, {"storage": {"get": raising(CapabilityError("conflict"))}})
    with pytest.raises(CapabilityError) as failed:
        host.call("storage", "get", (), 1.0)
    assert failed.value.case == "conflict"
    assert not caplog.records


def test_an_error_case_of_no_enum_becomes_internal(call, caplog):
    host = HostCapabilities(call, ALL, {"storage": {"get": raising(CapabilityError("nonsense"))}})
    with pytest.raises(CapabilityError) as failed:
        host.call("storage", "get", (), 1.0)
    assert failed.value.case == "internal"
    assert "nonsense" in caplog.text


def test_a_plugins_own_interface_has_its_own_capability(call):
    own = {"weather": {"today": lambda call: "sun"}}
    assert HostCapabilities(call, ["cap:weather"], own).call("weather", "today", (), 1.0) == "sun"
    with pytest.raises(UnknownCapability, match="cap:weather"):
        HostCapabilities(call, (), own).call("weather", "today", (), 1.0)


def test_the_table_is_complete():
    assert set(DEFAULT_GRANTS) < ALL
    for row in INTERFACES.values():
        assert set(row.plain) <= set(row.functions)
        assert not row.cases or {row.denied, row.failed} <= set(row.cases)
        assert row.cases or set(row.plain) == set(row.functions)


def test_a_plugin_may_replace_a_builtin_function_and_add_interfaces():
    merged = merge({"secrets": {"get": 1, "list-keys": 2}}, {"secrets": {"get": 3}, "x": {"y": 4}})
    assert merged == {"secrets": {"get": 3, "list-keys": 2}, "x": {"y": 4}}


@pytest.mark.parametrize(
    ("provided", "says"),
    [
        pytest.param({"scheduler": {"list-schedule": answer}}, "list-schedules", id="misspelt"),
        pytest.param({"context": {"get-context": answer}}, "engine's own", id="of the engine"),
    ],
)
def test_what_a_plugin_must_not_provide_is_refused_at_the_start(provided, says):
    with pytest.raises(ConfigurationError, match=f"desk provides .*{says}"):
        check_provided("desk", provided)


def test_everything_builtin_is_there_and_works_together(installs, make_call, caplog):
    caplog.set_level(logging.DEBUG)
    table = functions(None, installs, Settings(), {})
    assert set(table) == {"user", "user-v2", "secrets", "http", "storage", "ui-proxy"}
    for name, provided in table.items():
        assert set(provided) == set(INTERFACES[name].functions)
    host = HostCapabilities(make_call(), ALL, table)
    entry = {"namespace": "n", "key": "k", "value": b"v", "revision": None}
    assert host.call("storage", "put", (entry,), 1.0)["revision"] == 1
    assert host.call("user", "get-user", (), 1.0)["user-id"] == "u1"
    with pytest.raises(CapabilityError) as refused:
        host.call("http", "fetch", ({"method": "GET", "url": "http://a.test/"},), 1.0)
    assert refused.value.case == "not-allowed"


def test_a_denial_is_logged_once_a_call_and_interface(call, caplog):
    host = HostCapabilities(call, (), EVERYTHING)
    for _ in range(3):
        with pytest.raises(CapabilityError):
            host.call("storage", "get", ("n", "k"), 1.0)
    denials = [record.getMessage() for record in caplog.records]
    assert len(denials) == 1
    assert "capability.denied" in denials[0]
    assert "capability=cap:storage.kv" in denials[0]
    assert "request_id=r1" in denials[0]
