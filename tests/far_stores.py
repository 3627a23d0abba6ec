"""Bundle stores on other machines, played by real servers on this one."""

import os
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from urllib.parse import unquote

from support import LoopbackServer, in_thread

_names = count()


class S3Server:
    """Moto's server: the wire of S3, and what it keeps in memory."""

    def __enter__(self):
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        return self

    def __exit__(self, *exc):
        self._server.stop()

    @property
    def env(self):
        """What boto3 reads, and nothing of this machine's own."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def use(self, monkeypatch):
        """Have boto3 in this process speak with this server."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)

    def bucket(self):
        """The name of a new, empty bucket; the environment must be this server's."""
        name = f"bundles-{next(_names)}"
        with self.client() as client:
            client.create_bucket(Bucket=name)
        return name

    @staticmethod
    def client():
        """A client of boto3, closed after the block."""
        import boto3

        return closing(boto3.session.Session().client("s3"))


class WebServer:
    """A web server that keeps files below a folder, by GET and PUT.

    Attributes:
        url: its base.
        asked: method and path of every request.
        token: the bearer token that it wants, if any.
        fault: answers in its place, when it is set: ``fault(handler)``.
    """

    def __init__(self, folder):
        self.folder = folder
        self.asked = []
        self.token = None
        self.fault = None

    def answer(self, handler, body):
        self.asked.append((handler.command, handler.path))
        if self.fault:
            return self.fault(handler)
        if self.token and handler.headers["Authorization"] != f"Bearer {self.token}":
            return send(handler, 401)
        file = Path(f"{self.folder}{unquote(handler.path)}")
        if handler.command == "PUT":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
            return send(handler, 201)
        return send(handler, 200, file.read_bytes()) if file.is_file() else send(handler, 404)


def send(handler, status, body=b"", **headers):
    """Answer a request in full."""
    handler.send_response(status)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in {"Content-Length": str(len(body)), **given}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def web_server(folder):
    """Run a :class:`WebServer` until the block ends."""
    web = WebServer(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            web.answer(self, self.rfile.read(int(self.headers["Content-Length"] or 0)))

        do_PUT = do_GET

        def log_message(self, *args):
            pass

    with in_thread(LoopbackServer(Handler)) as server:
        web.url = f"http://127.0.0.1:{server.server_port}"
        yield web
