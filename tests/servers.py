"""Real WSGI servers in processes of their own, started as users start them."""

import http.client
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

BIN = Path(sys.executable).parent
_URL = re.compile(r"(?:Serving on|Listening at:) (http://\S+)")


class Server:
    """A started server: its URL, and what it has said so far."""

    def __init__(self, process):
        self.process = process
        self.said = []
        self.url = next(filter(None, map(self._heard, process.stderr)), None)
        if self.url is None:
            raise AssertionError("the server did not start:\n" + "".join(self.said))
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _heard(self, line):
        self.said.append(line)
        found = _URL.search(line)
        return found and found[1]

    def _listen(self):
        self.said.extend(self.process.stderr)

    def stop(self):
        """Ask it to end, as a service manager does; give back its exit status."""
        self.process.terminate()
        status = self.process.wait(timeout=15)
        self._listener.join()
        self.process.stderr.close()
        return status

    def send(self, method="GET", path="/", body=None, timeout=20, **headers):
        """One request on a connection of its own: status, headers by lower-case name, body."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=timeout)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()
        finally:
            connection.close()


@contextmanager
def serving(*command, cwd, env):
    """Run a server's own command until the block ends."""
    process = subprocess.Popen(
        [BIN / command[0], *command[1:]], cwd=cwd, env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        server = Server(process)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    try:
        yield server
    finally:
        server.stop()
