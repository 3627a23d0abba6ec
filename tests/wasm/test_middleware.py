"""Components of both toolchains behind the middleware: their grants, and what plugins provide."""

import json
import logging

import pytest
from runnerwsgi_wasm.backend import WasmBackend
from runnerwsgi_wasm.process import Options
from support import FILES, Site
from wasm import toolchains

from runnerwsgi import CapabilityError, hookimpl

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]

INVOICES = "cap:invoice.manual.create"
SCHEDULES = "cap:scheduler.manage"


class Desk:
    """A plugin that provides `invoicing` and `scheduler`, and keeps what it was asked."""

    name = "desk"

    def __init__(self):
        self.invoiced = []
        self.refusal = None

    @hookimpl
    def runner_capabilities(self):
        return {
            "invoicing": {"create-manual-invoice": self.create},
            "scheduler": {"list-schedules": self.list_schedules},
        }

    def create(self, call, order):
        self.invoiced.append((call.tenant_id, call.user.user_id, order))
        total = sum(item["quantity"] * item["rate"] for item in order["items"])
        return {"success": True, "invoice-number": "2030-7", "total": total}

    def list_schedules(self, call):
        if self.refusal:
            raise CapabilityError(self.refusal)
        at_night = {"id": "1", "endpoint-path": "/night", "endpoint-method": "POST"}
        return [{**at_night, "cron": "0 3 * * *", "timezone": "UTC", "enabled": True}]


def engine(store):
    """The backend, with the compiled code of earlier runs: compiling takes longer than all else."""
    options = Options(toolchains.BUILT / "code", compile_timeout_ms=180_000)
    return WasmBackend(store, options)


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def open_site(tmp_path, desk):
    """Serve a component under acme.hello."""
    opened = []

    def open_site(component):
        files = {**FILES, "dist/main.wasm": component}
        opened.append(Site(tmp_path, backend=engine, plugins=[desk], files=files))
        return opened[-1]

    yield open_site
    for site in opened:
        site.app.close()


def test_a_python_component_uses_what_a_plugin_provides(open_site, desk):
    site = open_site(toolchains.python_guest())
    site.install(grants=[INVOICES, SCHEDULES])
    answer = site.call(path="invoice")
    assert (answer.status, answer.json) == (
        201,
        {"success": True, "number": "2030-7", "total": 81.0},
    )
    assert site.call(path="schedules").json == {"crons": ["0 3 * * *"]}
    (tenant, user, order), *more = desk.invoiced
    assert (tenant, user, order["client-id"], more) == ("t1", "u1", "c1", [])
    assert order["items"][0]["description"] == "Pruning"


def test_a_case_that_a_plugin_raises_reaches_the_guest(open_site, desk):
    site = open_site(toolchains.python_guest())
    site.install(grants=[SCHEDULES])
    desk.refusal = "quota-exceeded"
    assert site.call(path="schedules").json == {"refused": "QUOTA_EXCEEDED"}


def test_what_was_not_granted_is_not_run_and_the_log_says_what_to_grant(open_site, desk, caplog):
    caplog.set_level(logging.INFO)
    site = open_site(toolchains.python_guest())
    site.install()
    assert site.call(path="schedules").json == {"refused": "DENIED"}
    # The interface has no error case, so the guest ends.
    answer = site.call(path="invoice")
    assert (answer.status, answer.code, desk.invoiced) == (502, "guest-trap", [])
    assert f"--grant {INVOICES}" in caplog.text
    assert INVOICES not in answer.body.decode()


def test_a_javascript_component_uses_secrets_and_the_applications_routes(open_site):
    site = open_site(toolchains.javascript_guest())
    site.install(
        grants=["cap:secrets.get", "cap:ui.proxy"],
        secrets={"token": "s3cr3t"},
        routes=["POST /api/me"],
    )
    answer = site.call(path="granted")
    assert (answer.status, answer.json) == (201, {"secret": "s3cr3t", "route": "host"})
    site.install(grants=["cap:secrets.get", "cap:ui.proxy"], routes=["GET /api/me"])
    assert json.loads(site.call(path="granted").body)["refused"].lower() == "denied"
