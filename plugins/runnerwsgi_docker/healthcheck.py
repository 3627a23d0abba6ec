"""The image's HEALTHCHECK: exit status 0 when the runner beside it is ready to execute."""

from __future__ import annotations

import http.client
import os
import sys

SECONDS = 4.0


def check(port: int) -> tuple[bool, str]:
    """Whether the runner on this port of the loopback interface is ready, and what it said."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/health/readiness")
        answer = connection.getresponse()
        return answer.status == 200, f"{answer.status} {answer.read(1024).decode(errors='replace')}"
    except (OSError, http.client.HTTPException) as exc:
        return False, f"{type(exc).__name__}: {exc}"
    finally:
        connection.close()


if __name__ == "__main__":
    ready, said = check(int(os.environ.get("PORT", "8080")))
    print(said)
    sys.exit(0 if ready else 1)
