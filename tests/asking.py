"""Requests as any client makes them, with nothing of ours in between."""

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Heard:
    """An answer, or what came of it: `text` ends where the connection did if `cut`."""

    status: int | None
    headers: dict
    text: str
    seconds: float
    cut: bool = False

    @property
    def said(self):
        """Status and text."""
        return self.status, self.text


def ask(url, method="GET", target="/", body=None, timeout=20, chunked=False, **headers):
    """One request on a connection of its own; underscores in names of headers are dashes."""
    started = time.monotonic()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, target, body, named, encode_chunked=chunked)
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        data, cut = _read(response)
        return Heard(response.status, fields, data.decode(), time.monotonic() - started, cut)
    except (OSError, http.client.HTTPException):
        return Heard(None, {}, "", time.monotonic() - started, True)
    finally:
        connection.close()


def _read(response):
    try:
        return response.read(), False
    except http.client.IncompleteRead as exc:
        return exc.partial, True


def ask_at_once(count, *args, **kwargs):
    """The same from so many clients; their answers in the order of their end."""
    answers = []
    with ThreadPoolExecutor(count) as pool:
        for _ in range(count):
            pool.submit(lambda: answers.append(ask(*args, **kwargs)))
    return answers
