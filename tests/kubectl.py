"""The real kubectl, which judges our Kubernetes API and our reading of kubeconfigs."""

import json
import subprocess
from dataclasses import dataclass

from servers import BIN


@dataclass(frozen=True)
class Said:
    """How a command of kubectl ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def rows(self):
        """The words of each line."""
        return [line.split() for line in self.out.splitlines()]


def kubectl(home, *args, **env):
    """Run `kubectl` with *args*; its HOME is *home*, and nothing of this machine is known to it."""
    ran = subprocess.run(
        [BIN / "kubectl", *args],
        env={"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(home)}
        | {name: str(value) for name, value in env.items()},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return Said(ran.returncode, ran.stdout, ran.stderr)


def viewed(home, **env):
    """The kubeconfig that kubectl has made of the files in KUBECONFIG, for its current context."""
    said = kubectl(home, "config", "view", "--minify", "--raw", "--flatten", "-o", "json", **env)
    assert said.status == 0, said.err
    return json.loads(said.out)
