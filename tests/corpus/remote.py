"""A site whose backend is the real `docker` one; at its other end, a runner that says any bytes."""

from contextlib import contextmanager

from peers import peer
from runnerwsgi_docker import plugin
from support import FILES, Site

TOKEN = "corpus-0123456789-abcdefghijklmnopqrstuvwxyz"
READY = b"HTTP/1.1 200 OK\r\nX-Runner: runnerwsgi/9\r\nContent-Length: 2\r\n\r\nok"


class Fake:
    """A runner that answers as it is told, and in order once that is said.

    Attributes:
        answer: the next answer's bytes, or a function that sends them; afterwards files are served.
        stays: whether the connection is left open after it.
        heard: first lines of what was asked, and on which connection.
    """

    def __init__(self):
        self.answer = None
        self.stays = False
        self.heard = []
        self._connections = 0

    def script(self, talk):
        self._connections += 1
        number = self._connections
        while request := talk.request():
            line = request.partition(b"\r\n")[0].decode()
            if "/health/readiness" in line:
                talk.send(READY)
                continue
            self.heard.append((line, number))
            if self.answer is None:
                talk.send(self._file(line))
                continue
            answer, self.answer = self.answer, None
            answer(talk) if callable(answer) else talk.send(answer)
            if not self.stays:
                return

    @staticmethod
    def _file(line):
        name = line.split(" ")[1].partition("?")[0].rpartition("/")[2]
        data = FILES.get(f"ui/{name}")
        if data is None:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)


@contextmanager
def remote_site(folder, **settings):
    """Gives the site, with acme.hello installed, and its runner."""
    fake = Fake()
    with peer(fake.script) as server:
        env = {
            "RUNNER_HOME": str(folder / "home"),
            "RUNNER_DOCKER_HOST": server.url,
            "RUNNER_SERVICE_TOKEN": TOKEN,
        }
        with Site(folder, backend=lambda store: plugin(env), **settings) as site:
            site.peer = server
            yield site, fake
