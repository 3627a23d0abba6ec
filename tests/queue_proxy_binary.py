"""Knative's own queue-proxy, where RUNNERWSGI_QUEUE_PROXY names its binary.

It listens on ports of its own (8022, 9090): one at a time in a network namespace.
"""

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

from peers import unused_port

BINARY = os.environ.get("RUNNERWSGI_QUEUE_PROXY")
ENVIRONMENT = {
    "QUEUE_SERVING_TLS_PORT": "8112",
    "SERVING_LOGGING_CONFIG": "",
    "SERVING_LOGGING_LEVEL": "error",
    "SERVING_NAMESPACE": "default",
    "SERVING_CONFIGURATION": "runner",
    "SERVING_REVISION": "runner-00001",
    "SERVING_POD": "runner-00001-x",
    "SERVING_POD_IP": "127.0.0.1",
}


class RealQueueProxy:
    """Like `knative_double.QueueProxy`, as far as it can be told from outside."""

    def __init__(self, process, port):
        self.process, self.url = process, f"http://127.0.0.1:{port}"

    def drain(self):
        """Have it end as Kubernetes has; returns when it has."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=90)


@contextmanager
def real_queue_proxy(
    target, *, concurrency=0, timeout=300, response_start=0, idle=0, readiness="/health/readiness"
):
    """Start it before *target*; the timers are whole seconds."""
    port, user_port = unused_port(), urlsplit(target).port
    probe = (
        f'{{"httpGet":{{"path":"{readiness}","port":{user_port},"host":"127.0.0.1",'
        '"scheme":"HTTP"},"successThreshold":1}'
    )
    env = ENVIRONMENT | {
        "CONTAINER_CONCURRENCY": str(concurrency),
        "QUEUE_SERVING_PORT": str(port),
        "USER_PORT": str(user_port),
        "REVISION_TIMEOUT_SECONDS": str(timeout),
        "REVISION_RESPONSE_START_TIMEOUT_SECONDS": str(response_start),
        "REVISION_IDLE_TIMEOUT_SECONDS": str(idle),
        "SERVING_READINESS_PROBE": probe,
    }
    process = subprocess.Popen([BINARY], env=env, stdout=subprocess.DEVNULL)
    try:
        _wait(port)
        yield RealQueueProxy(process, port)
    finally:
        process.kill()
        process.wait()


def _wait(port):
    for _ in range(100):
        connection = HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/", headers={"User-Agent": "Knative-Autoscaling-Probe"})
            connection.getresponse()
            return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise AssertionError("the queue-proxy did not start")
