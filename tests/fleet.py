"""Runner processes behind an ingress, killed and replaced as pods of a service are."""

import os
import signal
import threading
import time
from contextlib import ExitStack, contextmanager

from servers import runner

# An ingress hears of a pod that is gone a moment later; until then it sends calls there.
UNTIL_TOLD = 0.1


class Fleet:
    """So many runners, each with a home of its own below *folder*.

    Attributes:
        runners: those that serve, the oldest first.
        killed: how many were.
    """

    def __init__(self, folder, ingress, env):
        self._folder, self._ingress, self._env = folder, ingress, env
        self._stacks, self._count = {}, 0
        self.runners, self.killed = [], 0

    def start(self):
        """Start one more, and let it serve when it is ready."""
        stack = ExitStack()
        self._count += 1
        made = stack.enter_context(runner(self._folder / f"pod-{self._count}", **self._env))
        self._stacks[made] = stack
        self.runners.append(made)
        self._tell()
        return made

    def kill(self):
        """Kill the oldest in the middle of what it does, and start one in its place."""
        victim = self.runners.pop(0)
        os.kill(victim.process.pid, signal.SIGKILL)
        self.killed += 1
        time.sleep(UNTIL_TOLD)
        self._tell()
        self._stacks.pop(victim).close()
        self.start()

    def replace(self):
        """Start one more, and end the oldest gently when no new call comes to it."""
        self.start()
        oldest = self.runners.pop(0)
        self._tell()
        self._stacks.pop(oldest).close()

    def close(self):
        """End all."""
        for stack in self._stacks.values():
            stack.close()

    def _tell(self):
        self._ingress.point(*(one.url for one in self.runners))


@contextmanager
def fleet(folder, ingress, size, **env):
    """Runners until the block ends; *env* are their variables."""
    made = Fleet(folder, ingress, env)
    try:
        for _ in range(size):
            made.start()
        yield made
    finally:
        made.close()


@contextmanager
def repeating(act, pause=0.5):
    """Do this again and again, beside the block, until it ends."""
    over = threading.Event()

    def go_on():
        while not over.is_set():
            act()
            over.wait(pause)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
