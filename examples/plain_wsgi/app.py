"""Any WSGI callable takes part: ``RUNNER_IDENTITY=local waitress-serve app:application``."""

from runnerwsgi import RunnerMiddleware

PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Plain WSGI</title>
<h1>Plain WSGI</h1><runner-extension extension="demo.notes"></runner-extension>
<script src="/runner/bridge.js" defer></script>"""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(PAGE)))])
    return [PAGE]


application = RunnerMiddleware.from_env(app)
