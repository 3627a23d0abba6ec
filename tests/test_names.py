"""The names that users hold on to. A change here breaks somebody: it belongs in CHANGELOG.md."""

import importlib
import inspect

import pytest

import runnerwsgi
from runnerwsgi import (
    Gateway,
    Principal,
    RunnerMiddleware,
    RunnerServer,
    Settings,
    errors,
    hookspecs,
)
from runnerwsgi.cli import ENTRIES
from runnerwsgi.client import RunnerClient
from runnerwsgi.service_token import ServiceToken

NAMES = {
    "CapabilityError",
    "ConfigurationError",
    "ExecuteRequest",
    "ExecuteResponse",
    "Gateway",
    "Health",
    "Install",
    "Installs",
    "Principal",
    "RunnerError",
    "RunnerMiddleware",
    "RunnerServer",
    "Settings",
    "UiAsset",
    "__version__",
    "hookimpl",
}

SIGNATURES = {
    RunnerMiddleware: "(app, gateway, *, identify=None, installs=None, settings=None)",
    RunnerMiddleware.from_env: "(app, identify=None, env=None)",
    RunnerMiddleware.close: "(self)",
    RunnerServer: "(gateway, settings=None, *, token=None, every=10.0, revision=None)",
    RunnerServer.from_env: "(env=None)",
    RunnerServer.close: "(self)",
    Gateway: "(backend, *plugins, names=())",
    Gateway.from_env: "(env=None)",
    Gateway.execute: "(self, request)",
    Gateway.resolve_ui_url: "(self, asset)",
    Gateway.ui_url: "(self, extension, path='/', environ=None)",
    Gateway.health: "(self)",
    Gateway.close: "(self)",
    Settings.from_env: "(env)",
    RunnerClient: "(base, token, *, variable='RUNNER_BASE_URL', max_response_bytes=4194304, "
    "callback_base=None, allow_insecure=False, idle=8, route=Route(connect_to=None, host=None, "
    "tls=None, headers=(), platform=None, retries=None), greet=False, patience=0.0, reserve_ms=0)",
    RunnerClient.execute: "(self, request)",
    RunnerClient.ui_url: "(self, asset)",
    RunnerClient.warm_up: "(self, bundle, timeout)",
    RunnerClient.state: "(self, wait=2.0)",
    RunnerClient.probe: "(self, timeout=2.0)",
    RunnerClient.look: "(self, target, headers=(), timeout=2.0)",
    RunnerClient.close: "(self)",
    ServiceToken: "(value=None, file=None)",
    ServiceToken.from_settings: "(settings)",
}

PRINCIPAL = [
    "tenant_id",
    "user_id",
    "roles",
    "user_email",
    "user_name",
    "user_type",
    "client_name",
    "client_id",
    "additional_fields",
    "credential",
]

HOOKS = {
    "runner_execute": "(request)",
    "runner_resolve_ui_url": "(asset)",
    "runner_health": "()",
    "runner_warm_up": "(bundle)",
    "runner_authorize": "(principal, install, method, path)",
    "runner_capabilities": "()",
    "runner_metadata": "()",
    "runner_findings": "()",
    "runner_register_commands": "(group)",
    "runner_close": "()",
}
FIRST_RESULT = {"runner_execute", "runner_resolve_ui_url", "runner_health", "runner_warm_up"}

COMMANDS = {
    *("new", "build", "pack"),
    *("install", "uninstall", "push", "installs"),
    *("execute", "serve", "runner", "switch", "health"),
    *("parity", "plugins", "env", "doctor"),
}

CODES = {
    "backend-starting": 503,
    "backend-unreachable": 502,
    "bad-header": 400,
    "bad-path": 400,
    "bad-request": 400,
    "bad-runner-response": 502,
    "body-too-large": 413,
    "bundle-unavailable": 502,
    "capability-refused": 500,
    "cross-site": 403,
    "deadline-exceeded": 504,
    "forbidden": 403,
    "guest-out-of-memory": 502,
    "guest-timeout": 504,
    "outcome-unknown": 504,
    "guest-trap": 502,
    "header-too-large": 431,
    "idempotency-in-flight": 409,
    "idempotency-mismatch": 422,
    "identity-unavailable": 503,
    "internal": 500,
    "method-not-allowed": 405,
    "misconfigured": 500,
    "not-found": 404,
    "overloaded": 503,
    "secrets-unavailable": 502,
    "storage-unavailable": 503,
    "too-many-requests": 429,
    "unauthenticated": 401,
    "unknown-capability": 502,
    "unsupported-media-type": 415,
    "uri-too-long": 414,
}


def shape(function):
    """A signature without its annotations."""
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(bare))


def test_the_package_exports_these_names():
    assert set(runnerwsgi.__all__) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_exported_name_is_there(name):
    assert getattr(runnerwsgi, name) is not None
    assert name in dir(runnerwsgi)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Gatway'"):
        runnerwsgi.Gatway  # noqa: B018 the access is the test


@pytest.mark.parametrize(
    ("function", "expected"), [pytest.param(f, s, id=f.__qualname__) for f, s in SIGNATURES.items()]
)
def test_signatures_stay(function, expected):
    assert shape(function) == expected


def test_the_principal_keeps_its_fields_in_order():
    assert list(inspect.signature(Principal).parameters) == PRINCIPAL


def test_the_hooks_are_these():
    hooks = {n: f for n, f in vars(hookspecs).items() if hasattr(f, "runnerwsgi_spec")}
    assert {name: shape(function) for name, function in hooks.items()} == HOOKS
    first = {name for name, function in hooks.items() if function.runnerwsgi_spec["firstresult"]}
    assert first == FIRST_RESULT


def test_the_commands_are_these():
    assert set(ENTRIES) == COMMANDS


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda entry: entry.name)
def test_every_command_of_the_overview_is_there(entry):
    module = importlib.import_module(f"runnerwsgi.cli.{entry.module}")
    assert getattr(module, entry.name).name == entry.name


def test_an_error_code_keeps_its_status():
    told = {(error.code, error.status) for error in errors.all_errors()}
    # BundleError is BundleUnavailable's code, met while installing instead of while calling.
    assert dict(sorted(told)) == CODES
    assert len(told) == len(CODES)


def test_the_contract_kit_is_where_authors_find_it():
    assert importlib.import_module("runnerwsgi.testing").__all__ == [
        "BackendContract",
        "RemoteBackendContract",
    ]
