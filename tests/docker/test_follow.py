"""`runnerwsgi docker logs --follow`, typed once for as long as one works."""

import os
import signal
import subprocess
import threading

from boxes import wait_for
from servers import BIN


def test_it_goes_on_when_the_container_is_replaced(box):
    box.up()
    command = [BIN / "runnerwsgi", "docker", "logs", "--follow"]
    with subprocess.Popen(
        command, env=os.environ | box.env, stdout=subprocess.PIPE, text=True
    ) as follower:
        said = []
        reader = threading.Thread(target=lambda: said.extend(follower.stdout))
        reader.start()
        try:
            box.install()
            wait_for("warm_up", said)
            box.up(RUNNER_DOCKER_PIDS=200)
            wait_for("serving", said, 2)
            box.type("execute", "demo.hello", "GET", "/hello")
            wait_for("/hello", said)
        finally:
            follower.send_signal(signal.SIGINT)
            status = follower.wait(timeout=30)
            reader.join()
    assert status == 0
