"""The tutorial, followed: every command is typed, every file written, every promise looked for.

A `console` block is typed into the terminal that its title names, a block with another title is
written to that file. Lines below a `$` are what the page promises: they must appear in this order,
where `…` stands for anything. One thing is replaced: `runnerwsgi[wasm]` is the wheel of this tree
instead of the released one.
"""

import os
import re
import signal
import subprocess
import time

import pytest
from peers import unused_port

from docs.pages import DOCS, blocks

PATIENCE = 180  # seconds for one command: the installation takes longest


class Terminal:
    """A shell that stays open between commands, as the reader's does."""

    def __init__(self, folder):
        env = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
        self.output = folder / f"terminal-{time.monotonic_ns()}.txt"
        with self.output.open("wb") as output:
            self.shell = subprocess.Popen(
                ["bash", "--norc"],
                cwd=folder,
                env=env | {"TERM": "dumb", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def type(self, command, promised):
        """Type *command*; wait until it ends, or for a server, until it said what is promised."""
        start = self.output.stat().st_size
        # The newline is for answers that end without one.
        self.shell.stdin.write(f"{command}\nprintf '\\n[status %s]\\n' $?\n".encode())
        self.shell.stdin.flush()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            said = self.output.read_bytes()[start:].decode("utf-8", "replace")
            if ended := re.search(r"^\[status (\d+)\]$", said, re.MULTILINE):
                assert ended[1] == "0", f"$ {command}\n{said}"
                assert promised.search(said), f"$ {command}\nsaid:\n{said}\nnot {promised.pattern}"
                return
            if "runnerwsgi serve" in command and promised.search(said):
                return
            time.sleep(0.1)
        raise AssertionError(f"$ {command}\nis still running after {PATIENCE} s:\n{said}")

    def close(self):
        """Interrupt what runs, as Ctrl-C does, and leave the shell."""
        self.shell.stdin.close()
        os.killpg(self.shell.pid, signal.SIGINT)
        try:
            self.shell.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.shell.pid, signal.SIGKILL)
            self.shell.wait()


def promise(lines):
    """What output must contain: *lines* in this order, `…` being anything."""
    patterns = [re.escape(line).replace("…", ".*?") for line in lines if line != "…"]
    return re.compile("".join(rf"^{line}$[\s\S]*?" for line in patterns), re.MULTILINE)


def steps(text):
    """The commands of a console block, each with the lines promised below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *promised = part.splitlines()
        yield command, promised


@pytest.mark.slow
@pytest.mark.toolchain
def test_the_tutorial_does_what_it_says(tmp_path, wheel):
    replaced = {"'runnerwsgi[wasm]'": f"'{wheel}[wasm]'", "8000": str(unused_port())}
    terminals = {}
    try:
        for block in blocks(DOCS / "tutorial.md"):
            text = block.text
            for written, meant in replaced.items():
                text = text.replace(written, meant)
            if block.language != "console":
                (tmp_path / "tutorial" / block.title).write_text(text)
                continue
            if block.title not in terminals:
                terminals[block.title] = Terminal(tmp_path)
            for command, promised in steps(text):
                terminals[block.title].type(command, promise(promised))
    finally:
        for terminal in terminals.values():
            terminal.close()


def test_every_block_of_the_tutorial_is_typed_or_written():
    assert all(block.title or block.language == "console" for block in blocks(DOCS / "tutorial.md"))
