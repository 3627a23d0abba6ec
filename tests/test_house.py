"""The house stands: imports go down its floors, and nothing is where it should not be."""

import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "runnerwsgi"
PLUGINS = ROOT / "plugins"

# docs/explanation/architecture.md draws it. A module imports from its own floor or below.
FLOORS = (
    ("errors", "hookspecs", "secrets", "_version"),
    (
        "protocol",
        "headers",
        "paths",
        "origins",
        "settings",
        "manifest",
        "routes",
        "wire",
        "browser",
        "canary",
        "wit",
    ),
    # One noun each, from bytes on disk to requests and answers.
    (
        *("tar", "zstd", "database", "bundles", "stores", "installs", "access", "service_token"),
        *(
            "timed",
            "lookup",
            "upstream",
            "retries",
            "latest",
            "runner_answers",
            "runner_state",
            "client",
            "idempotency",
            "assets",
            "bulkhead",
            "leases",
            "switchboard",
        ),
        *("parity", "discovery", "logs", "wsgi", "files", "sockets", "claims"),
    ),
    ("capabilities",),
    ("gateway",),
    ("execute", "pages", "callbacks", "self_test", "switch"),
    ("middleware", "server"),
    ("cli", "testing"),
    ("__main__",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

# What a plugin may import beside the names of `runnerwsgi` itself: documented for third parties.
FOR_PLUGINS = {
    *("errors", "protocol", "hookspecs", "settings", "bundles", "capabilities"),
    *("client", "upstream", "retries", "latest", "origins", "service_token", "stores"),
    *("cli.command", "cli.output"),
}


def sources(folder):
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def dotted(path, top):
    parts = path.relative_to(top).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, top):
    """Every (line, dotted name) that a file imports when it runs; names of `from` included."""
    name = dotted(path, top)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            origin = ".".join([*(base if node.level else []), *filter(None, [node.module])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def running(node):
    """All nodes but those under `if TYPE_CHECKING:`, which never run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from running(child)


def room(name):
    """`runnerwsgi.cli.about.x` is in the room `cli`; a name of the package itself is in none."""
    first = name.split(".")[1] if "." in name else ""
    is_module = (CORE / f"{first}.py").exists() or (CORE / first / "__init__.py").exists()
    return first if first and is_module else None


def is_for_plugins(name):
    """`runnerwsgi.cli.output.say` is, as `cli.output` is one of theirs."""
    inside = name.removeprefix("runnerwsgi.")
    return any(f"{inside}.".startswith(f"{one}.") for one in FOR_PLUGINS)


def core_edges():
    """(file:line, room, imported name) for each import of the core within itself."""
    for path in sources(CORE):
        for line, name in imports(path, ROOT):
            if name.split(".")[0] == "runnerwsgi":
                yield f"{path.relative_to(ROOT)}:{line}", room(dotted(path, ROOT)), name


def test_every_module_has_its_floor():
    rooms = {room(dotted(path, ROOT)) for path in sources(CORE)} - {None}
    assert rooms == set(FLOOR), "draw it in FLOORS and in docs/explanation/architecture.md"


def test_imports_only_go_down():
    wrong = [
        f"{where}: {here} (floor {FLOOR[here] + 1}) imports {name}"
        for where, here, name in core_edges()
        if here and (room(name) is None or FLOOR[room(name)] > FLOOR[here])
    ]
    assert not wrong, "\n".join(wrong)


def test_rooms_do_not_import_in_a_circle():
    graph = {}
    for _, here, name in core_edges():
        if here and room(name) not in (here, None):
            graph.setdefault(here, set()).add(room(name))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        pytest.fail(" imports ".join(reversed(exc.args[1])))


def test_the_core_knows_no_backend():
    named = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(CORE)
        for line, name in imports(path, ROOT)
        if name.startswith("runnerwsgi_")
    ]
    assert not named, "\n".join(named)


def test_plugins_import_what_a_third_party_may():
    import runnerwsgi

    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(PLUGINS)
        for line, name in imports(path, PLUGINS)
        if name.split(".")[0] == "runnerwsgi"
        and not is_for_plugins(name)
        and name.removeprefix("runnerwsgi.") not in runnerwsgi.__all__
    ]
    assert not wrong, "\n".join(wrong)


def test_what_a_plugin_may_import_is_documented():
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    found = {line.removeprefix("## `runnerwsgi.").rstrip("`") for line in page.splitlines()}
    assert FOR_PLUGINS - found == {"errors", "hookspecs"}, "those two have pages of their own"


def test_importing_the_package_loads_neither_plugins_nor_heavy_libraries():
    heavy = {"wasmtime", "environs", "sqlalchemy", "pytest", "click", "runnerwsgi_wasm"}
    code = f"import sys, runnerwsgi; print(sorted({heavy!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["utils", "common", "core", "helpers", "misc"])
def test_no_room_is_called_after_nothing(name):
    found = [p for top in (CORE, PLUGINS) for p in top.rglob(f"{name}*") if p.suffix in ("", ".py")]
    assert not found


SKIPPING = """
import pytest

@pytest.mark.skip(reason="no chromium here")
def test_skipped(): pass
"""


@pytest.mark.parametrize(
    ("source", "reason", "status"),
    [
        pytest.param(SKIPPING, "no chromium here", 1, id="a test"),
        pytest.param("import pytest\npytest.importorskip('no_such')", "no_such", 2, id="a module"),
    ],
)
@pytest.mark.parametrize("strict", ["1", ""], ids=["strict", "lenient"])
def test_a_strict_run_fails_what_is_skipped(tmp_path, source, reason, status, strict):
    (tmp_path / "test_skipped.py").write_text(source)
    (tmp_path / "test_passed.py").write_text("def test_passes(): pass")
    (tmp_path / "pytest.ini").touch()
    env = {**os.environ, "RUNNER_TEST_STRICT": strict, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-rA", str(tmp_path)]
    ran = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True)
    assert ran.returncode == (status if strict else 0), ran.stdout
    assert reason in ran.stdout
