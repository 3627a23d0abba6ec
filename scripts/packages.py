"""Debian packages that the scripts need, installed when they are asked to."""

import os
import shutil
import subprocess
import sys


def install(needs):
    """Install the packages whose commands are missing; *needs* has the package of each command."""
    missing = sorted({package for command, package in needs.items() if not shutil.which(command)})
    if not missing:
        return
    print(f"Installing {' '.join(missing)} …", flush=True)
    apt = ["apt-get"] if os.geteuid() == 0 else ["sudo", "apt-get"]
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *missing]):
        if subprocess.run([*apt, *arguments], stdout=subprocess.DEVNULL, env=env).returncode:
            sys.exit(f"apt-get could not install {' '.join(missing)}; install it by hand.")
