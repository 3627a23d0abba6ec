"""Measures the embedded engine beside a bare loop over wasmtime; started by ./benchmarks/engine.

Every figure is a ratio of two ways that take turns in one process, so that whatever else the
machine does hits both: the median of the rounds' ratios is printed, with both medians.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

MEGABYTE = bytes(range(256)) * 4096
ROUNDS = 7


def main():
    parser = argparse.ArgumentParser(prog="./benchmarks/engine", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="length of one throughput measurement"
    )
    seconds = parser.parse_args().seconds
    in_environment()
    from wasm.toolchains import python_guest

    from runnerwsgi.wit import ECHO

    describe_machine()
    guests = {"WAT": ECHO.read_text("utf-8"), "Python": python_guest()}
    with tempfile.TemporaryDirectory() as folder:
        for name, component in guests.items():
            measure(name, component, Path(folder) / name, seconds)


def in_environment():
    """Go on in the project's virtual environment, which is made when it is not there."""
    from environment import environment, requirements

    python = environment(
        ROOT / ".venv",
        *("-e", ".[wasm]", *requirements("componentize-py", "pytest")),
        covers=("-e", ".[dev]"),
    )
    if Path(sys.prefix) != python.parent.parent:
        os.execv(python, [python, *sys.argv])


def describe_machine():
    from importlib.metadata import version

    print(
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, wasmtime {version('wasmtime')}"
    )


def measure(name, component, folder, seconds):
    from wasm.rig import Rig

    from runnerwsgi.protocol import HttpRequest

    print(f"\nA guest in {name}")
    rig = Rig(folder, compile_timeout_ms=300_000)
    small = rig.request(component, HttpRequest("POST", "/", body=b"hello"), timeout_ms=60_000)
    large = rig.request(component, HttpRequest("POST", "/", body=MEGABYTE), timeout_ms=60_000)
    compiled = once(lambda: rig.warm_up(component))
    cold_start(rig, small, compiled)

    def ours(request):
        answer = rig.backend.runner_execute(request)
        assert answer.body == request.http.body, answer.error

    bare = Bare(rig.store.get(small.context.content_hash).wasm)
    assert bare(small) == small.http.body
    added = compare("warm call", lambda: ours(small), lambda: bare(small), calls=50)
    print(f"{'':24}{added * 1000:.2f} ms added to the bare loop's call (must: 0.3)")
    compare(
        "1 MB there and back",
        lambda: ours(large),
        lambda: bare(large),
        calls=1,
        note="must: 0.1, aim: 0.05",
    )
    for threads in (1, 2, 4):
        throughput(threads, lambda: ours(small), lambda: bare(small), seconds)
    rig.backend.runner_close()


def cold_start(rig, request, compiled):
    """The first call of a process: with the code compiled before, and without."""
    from wasm.rig import Rig

    def first_call():
        restarted = Rig(rig.folder)
        took = once(lambda: restarted.backend.runner_execute(request))
        assert restarted.counters == (0, 1, 0)
        restarted.backend.runner_close()
        return took

    kept = statistics.median(first_call() for _ in range(ROUNDS))
    row("cold start", kept, compiled + kept, "code kept : compiled first (must: 50 ms kept)")


class Bare:
    """What one writes with the library's documentation: its linker, its WASI, its conversion."""

    def __init__(self, wasm):
        import wasmtime
        from wasmtime.component import Component, FuncType, Linker

        config = wasmtime.Config()
        config.epoch_interruption = True
        self.engine = wasmtime.Engine(config)
        self.component = Component.from_file(self.engine, wasm)
        self.linker = Linker(self.engine)
        self.linker.add_wasip2()
        with self.linker.root() as root:
            for interface, item in self.component.type.imports(self.engine).items():
                if interface.startswith("alga:extension/"):
                    with root.add_instance(interface) as instance:
                        for name, export in item.ty.exports(self.engine).items():
                            if isinstance(export.ty, FuncType):
                                instance.add_func(name, lambda store, *args: None)

    def __call__(self, request):
        import wasmtime

        store = wasmtime.Store(self.engine)
        store.set_epoch_deadline(1_000_000)
        store.set_limits(memory_size=request.limits.memory_mb << 20)
        wasi = wasmtime.WasiConfig()
        store.set_wasi(wasi)
        instance = self.linker.instantiate(store, self.component)
        answer = instance.get_func(store, "handler")(store, self.argument(request))
        store.close()
        return answer.body

    @staticmethod
    def argument(request):
        context, http = request.context, request.http
        return record(
            context=record(
                request_id=context.request_id,
                tenant_id=context.tenant_id,
                extension_id=context.extension_id,
                install_id=context.install_id,
                version_id=context.version_id,
            ),
            http=record(
                method=http.method,
                url=http.url,
                headers=[record(name=name, value=value) for name, value in http.headers],
                body=http.body,
            ),
        )


def record(**fields):
    from wasmtime.component import Record

    made = Record()
    for name, value in fields.items():
        setattr(made, name.replace("_", "-"), value)
    return made


def once(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def compare(what, ours, bare, calls, note=""):
    """Time both in turn; the seconds that ours takes more."""
    pairs = [
        tuple(once(lambda way=way: [way() for _ in range(calls)]) / calls for way in (ours, bare))
        for _ in range(ROUNDS)
    ][1:]
    row(what, *map(statistics.median, zip(*pairs, strict=True)), note, pairs)
    return statistics.median(one - other for one, other in pairs)


def throughput(threads, ours, bare, seconds):
    pairs = [
        (1 / calls_per_second(ours, threads, seconds), 1 / calls_per_second(bare, threads, seconds))
        for _ in range(3)
    ]
    one, other = (1 / statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(second / first for first, second in pairs)
    plural = "s" if threads > 1 else ""
    print(
        f"  calls/s, {threads} thread{plural:7}{one:10.0f}  : {other:8.0f} bare   "
        f"x {ratio:.2f}   (must: 0.9)"
    )


def calls_per_second(function, threads, seconds):
    counts, end = [0] * threads, time.perf_counter() + seconds

    def work(number):
        while time.perf_counter() < end:
            function()
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - started)


def row(what, one, other, note, pairs=()):
    ratio = statistics.median(a / b for a, b in pairs) if pairs else one / other
    print(
        f"  {what:22}{one * 1000:10.2f} ms : {other * 1000:8.2f} ms     x {ratio:.4f}"
        + (f"   ({note})" if note else "")
    )


if __name__ == "__main__":
    main()
