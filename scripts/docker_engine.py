"""Runs a command with a Docker Engine and a base image; started by ./scripts/docker-engine."""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from environment import ROOT
from packages import install

CACHE = ROOT / ".cache"
SUITE = "bookworm"
BASE = f"localbase:{SUITE}"
# What the base image has beside Debian's essentials: what the Dockerfile asks of a base.
BASE_PACKAGES = ("python3", "python3-venv")
NEEDS = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "cgroupfs-mount": "cgroupfs-mount",
}
START_SECONDS = 60
STOP_SECONDS = 30


def main():
    options, command = parse()
    with engine(options.install) as found:
        sys.exit(subprocess.run(command, cwd=ROOT, env=os.environ | found).returncode)


def parse():
    parser = argparse.ArgumentParser(
        prog="./scripts/docker-engine",
        description="Runs a command with DOCKER_HOST, RUNNER_DOCKER_BASE and RUNNER_DOCKER_WHEELS "
        "set. Where no Docker Engine answers, one is started (as root) and removed afterwards with "
        "all that was in it. No image registry is needed.",
    )
    parser.add_argument("--install", action="store_true", help="install missing Debian packages")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("name the command to run")
    return options, options.command


@contextlib.contextmanager
def engine(may_install):
    """The variables that lead to an engine: the one that answers, or one for this block alone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    is_there = answers(os.environ)
    if may_install and not (is_there and os.environ.get("RUNNER_DOCKER_BASE")):
        install(NEEDS)
    with contextlib.nullcontext({}) if is_there else started() as found:
        yield found | base(os.environ | found)


def answers(env):
    """Whether a Docker Engine answers where *env* says."""
    try:
        ran = subprocess.run(["docker", "version"], env=env, capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ran.returncode == 0


@contextlib.contextmanager
def started():
    """A dockerd on a socket of its own; the folder of all its data is removed at the end."""
    if os.geteuid() != 0:
        sys.exit("No Docker Engine answers, and only root can start one: start Docker, try again.")
    if not shutil.which("dockerd"):
        sys.exit("There is no dockerd: --install brings it, or apt-get install docker.io.")
    mount_cgroups()
    with network_as_it_was():
        # Not in .cache: the path of a socket is short, and images cannot lie on every file system.
        folder = Path(tempfile.mkdtemp(prefix="runnerwsgi-docker-", dir="/var/tmp"))
        try:
            yield from serving(folder)
        finally:
            unmount(folder)
            shutil.rmtree(folder, ignore_errors=True)


def serving(folder):
    socket = f"unix://{folder}/docker.sock"
    command = ["dockerd", f"--host={socket}", f"--pidfile={folder}/pid"]
    command += [f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
    log = folder / "dockerd.log"
    began = time.monotonic()
    # In a session of its own: Ctrl+C is for us, and we end the daemon in order.
    with log.open("w") as out:
        daemon = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_until_it_answers(daemon, socket, log)
        print(f"dockerd on {socket} after {time.monotonic() - began:.1f} s", flush=True)
        yield {"DOCKER_HOST": socket}
    finally:
        leave_nothing(socket)
        stop(daemon)


def wait_until_it_answers(daemon, socket, log):
    end = time.monotonic() + START_SECONDS
    while not answers(os.environ | {"DOCKER_HOST": socket}):
        if daemon.poll() is not None or time.monotonic() > end:
            sys.exit(f"dockerd does not run:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def leave_nothing(socket):
    """End the containers, and with them the networks: their bridges would outlive the daemon."""
    env = os.environ | {"DOCKER_HOST": socket}
    listed = subprocess.run(["docker", "ps", "-aq"], env=env, text=True, capture_output=True)
    for command in (["rm", "-f", *listed.stdout.split()], ["network", "prune", "-f"]):
        subprocess.run(["docker", *command], env=env, capture_output=True, timeout=120)


def stop(daemon):
    daemon.terminate()
    try:
        daemon.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def unmount(folder):
    """What a daemon that did not end in order has left mounted, the innermost first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], capture_output=True)


@contextlib.contextmanager
def network_as_it_was():
    """Take away the bridge and the filter rules that dockerd leaves behind, if it made them."""
    rules = subprocess.run(["iptables-save"], text=True, capture_output=True).stdout
    bridge = ("ip", "link", "show", "docker0")
    had_bridge = subprocess.run(bridge, capture_output=True).returncode == 0
    try:
        yield
    finally:
        if not had_bridge:
            subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True)
        if "DOCKER" not in rules:
            restore(rules)


def restore(rules):
    """Filter rules as `iptables-save` wrote them; a table that was not there is emptied."""
    for table in ("nat", "filter"):
        if f"*{table}" not in rules:
            rules += f"*{table}\nCOMMIT\n"
    subprocess.run(["iptables-restore"], input=rules, text=True, capture_output=True)


def mount_cgroups():
    """The control groups that containers live in: without systemd, nobody has mounted them."""
    kinds = {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    if not kinds & {"cgroup", "cgroup2"}:
        # They stay: taking them away would take them from whoever has begun to use them.
        subprocess.run(["cgroupfs-mount"], check=True)


def base(env):
    """The variables that name the base image and the wheels; the image is there."""
    name = env.get("RUNNER_DOCKER_BASE", BASE)
    wheels = env.get("RUNNER_DOCKER_WHEELS", str(CACHE / "wheels" / name.replace("/", "-")))
    docker = {"env": env, "capture_output": True}
    if subprocess.run(["docker", "image", "inspect", name], **docker).returncode and name == BASE:
        archive = base_archive()
        ran = subprocess.run(["docker", "import", archive, BASE], **docker)
        if ran.returncode:
            sys.exit(f"The base image could not be imported: {ran.stderr.decode()}")
    return {"RUNNER_DOCKER_BASE": name, "RUNNER_DOCKER_WHEELS": wheels}


def base_archive():
    """A small Debian with Python as a tar archive, made once."""
    archive = CACHE / f"{'-'.join((SUITE, *BASE_PACKAGES))}.tar"
    if archive.exists():
        return archive
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("The base image is made by debootstrap, as root: --install brings it.")
    began = time.monotonic()
    print(f"Making the base image {BASE} with debootstrap …", flush=True)
    with tempfile.TemporaryDirectory(prefix="runnerwsgi-base-", dir="/var/tmp") as name:
        options = ["--variant=minbase", f"--include={','.join(BASE_PACKAGES)}"]
        debootstrap = ["debootstrap", *options, SUITE, name]
        ran = subprocess.run(
            debootstrap, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if ran.returncode:
            sys.exit(f"debootstrap failed:\n{ran.stdout[-2000:]}")
        archive.parent.mkdir(exist_ok=True)
        part = archive.with_suffix(".part")
        left_out = ("./var/cache/apt/*", "./var/lib/apt/lists/*", "./usr/share/doc/*", "./dev/*")
        tar = ["tar", "-C", name, *(f"--exclude={path}" for path in left_out), "-cf", part, "."]
        subprocess.run(tar, check=True)
        part.rename(archive)
    print(f"… done in {time.monotonic() - began:.0f} s", flush=True)
    return archive


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
