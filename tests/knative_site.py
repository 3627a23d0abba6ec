"""An application whose runner is a Knative service: what its own callers get."""

import wasmtime
from runnerwsgi_knative import plugin
from support import FILES, Site

from runnerwsgi.wit import ECHO


class KnativeSite(Site):
    """A site whose extension answers with what it gets; the runner is at *url*.

    Several may be made over one folder, whose `home` the runners share.
    """

    def __init__(self, folder, url, *, env=None, **settings):
        given = {"RUNNER_BASE_URL": url, "RUNNER_KNATIVE_COLD_START_MS": "0", **(env or {})}
        files = {**FILES, "dist/main.wasm": bytes(wasmtime.wat2wasm(ECHO.read_text("utf-8")))}
        options = {"threads": 42, "max_per_extension": 40, **settings}
        super().__init__(folder, backend=lambda store: plugin(given), files=files, **options)
