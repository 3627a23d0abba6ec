"""A backend that runs nothing: it answers every handler call with the call's own body."""

import time
from urllib.parse import quote

from runnerwsgi import ExecuteResponse, Health, hookimpl
from runnerwsgi.settings import Setting, origin, read

SETTINGS = (
    Setting(
        "RUNNER_ECHO_UI_BASE",
        origin,
        "http://127.0.0.1:8086",
        "Web server that has the unpacked bundles.",
        owner="echo",
    ),
)

TEXT = (("content-type", "text/plain; charset=utf-8"),)
BYTES = (("content-type", "application/octet-stream"),)


class Echo:
    """Echoes a body; without one it answers "METHOD URL". The path /endless takes for ever."""

    name = "echo"

    def __init__(self, ui_base):
        self.ui_base = ui_base

    @hookimpl
    def runner_execute(self, request):
        http = request.http
        if http.path == "/endless":
            # Whatever a backend waits for, it waits no longer than the call's own limit.
            time.sleep(request.limits.timeout_ms / 1000)
            return ExecuteResponse(504, outcome="timeout", error="an echo that never came")
        if http.body is None:
            return ExecuteResponse(200, TEXT, f"{http.method} {http.url}\n".encode())
        return ExecuteResponse(200, BYTES, http.body)

    @hookimpl
    def runner_resolve_ui_url(self, asset):
        path = f"{asset.extension_id}/{asset.content_hash}/{asset.path}"
        return f"{self.ui_base}/ext-ui/{quote(path)}"

    @hookimpl
    def runner_health(self):
        return Health("ok", {"echo": "always there"})

    @hookimpl
    def runner_metadata(self):
        return {"ui_base": self.ui_base}


def plugin(env):
    """The entry point: a backend made from its own RUNNER_ECHO_* variables."""
    return Echo(read(SETTINGS, env)["RUNNER_ECHO_UI_BASE"])
