"""A RUNNER_HOME of its own with a container of its own, and the commands that a user types."""

import json
import os
import time
import uuid
from contextlib import chdir, contextmanager
from pathlib import Path

from click.testing import CliRunner
from peers import unused_port
from runnerwsgi_docker.container import networks_of, volume_of

from runnerwsgi.cli import cli


class Box:
    """What `runnerwsgi docker …` works on, as an environment names it."""

    def __init__(self, engine, image, folder):
        self.engine = engine
        self.name = f"runnerwsgi-test-{uuid.uuid4().hex[:8]}"
        self.folder = folder
        self.home = folder / "home"
        self.env = {
            "RUNNER_BACKEND": "docker",
            "RUNNER_HOME": str(self.home),
            "RUNNER_DOCKER_CONTAINER": self.name,
            "RUNNER_DOCKER_IMAGE": image,
            "RUNNER_DOCKER_HOST": f"http://127.0.0.1:{unused_port()}",
        }

    def type(self, *args, **env):
        """Type `runnerwsgi` and *args*: the result has exit status and both streams."""
        clean = {name: None for name in os.environ if name.startswith("RUNNER_")}
        given = {**clean, **self.env, **{name: str(value) for name, value in env.items()}}
        return CliRunner().invoke(cli, list(map(str, args)), prog_name="runnerwsgi", env=given)

    def docker(self, *args, **env):
        return self.type("docker", *args, **env)

    def up(self, *args, **env):
        done = self.docker("up", *args, **env)
        assert done.exit_code == 0, done.output
        return done

    def failure(self, *args, **env):
        """The one line that a command which fails says; the lines below it are indented."""
        done = self.docker(*args, **env)
        assert done.exit_code == 1, done.output
        return done.stderr.partition("error: ")[2]

    def status(self, **env):
        return json.loads(self.docker("status", "--json", **env).stdout)

    def install(self, *options, name="hello"):
        """Make an extension that needs no compiler to speak of, and install it."""
        with chdir(self.folder):
            if not Path(name).exists():
                made = self.type("new", "extension", name, "--template", "wat")
                assert made.exit_code == 0, made.output
            done = self.type("install", name, *options)
            assert done.exit_code == 0, done.output

    @property
    def facts(self):
        return self.engine.inspect("container", self.name)

    def inside(self, code, *args):
        """What a Python program prints in the container."""
        python = "/opt/runnerwsgi/bin/python"
        return self.engine.run("exec", self.name, python, "-c", code, *args).strip()

    def remove(self):
        if self.facts is not None:
            self.engine.run("container", "rm", "--force", "--volumes", self.name)
        names = {
            "network": [n.name for n in networks_of(self.name)],
            "volume": [volume_of(self.name)],
        }
        for kind, name in ((kind, name) for kind, found in names.items() for name in found):
            if self.engine.inspect(kind, name) is not None:
                self.engine.run(kind, "rm", name)


@contextmanager
def box(engine, image, folder):
    """A box that leaves nothing behind."""
    made = Box(engine, image, folder)
    try:
        yield made
    finally:
        made.remove()


def wait_for(words, said, times=1, seconds=120):
    """Wait until so many lines of what a program says have these words."""
    end = time.monotonic() + seconds
    while sum(words in line for line in said) < times:
        assert time.monotonic() < end, said
        time.sleep(0.05)
