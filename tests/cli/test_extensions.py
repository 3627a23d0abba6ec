"""`new`, `build` and `pack`."""

import json
import os
import re
import shutil
import sys
from contextlib import closing

import pytest
from wasm import toolchains
from werkzeug.test import Client

from runnerwsgi import Principal, RunnerMiddleware, bundles
from runnerwsgi.cli.templates import TEMPLATES
from runnerwsgi.cli.toolchains import script_fault
from runnerwsgi.manifest import Manifest

COMPONENT = b"\0asm\x0d\0\x01\0"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_template_is_complete(run, folder, template):
    said = run("new", "extension", "acme.my-notes", "--template", template)
    assert said.exit_code == 0
    made = folder / "acme.my-notes"
    manifest = Manifest.from_json((made / "manifest.json").read_bytes())
    assert (manifest.name, manifest.publisher) == ("acme.my-notes", "acme")
    assert (made / manifest.ui.entry).is_file()
    assert 4 <= len((made / "README.md").read_text().splitlines()) <= 6
    assert "dist/" in (made / ".gitignore").read_text()
    for path in made.rglob("*"):
        assert path.is_dir() or "__" not in path.read_text().replace("__pycache__", ""), path
    assert "My notes" in (made / "ui/index.html").read_text()


def test_without_a_publisher_it_is_demo(run, folder):
    said = run("new", "extension", "notes", "--folder", "elsewhere", "--json")
    assert json.loads(said.stdout)["extension"] == "demo.notes"
    assert json.loads((folder / "elsewhere/manifest.json").read_text())["name"] == "demo.notes"


def test_nothing_is_overwritten(run, hello):
    (hello / "manifest.json").write_text("mine")
    said = run("new", "extension", "hello")
    assert said.exit_code == 1
    assert "hello exists already" in said.stderr
    assert (hello / "manifest.json").read_text() == "mine"


@pytest.mark.parametrize("name", ["Notes", "../up", "a b", "a..b", "-", "", "notes.", "x" * 101])
def test_a_name_that_cannot_be_is_wrong_usage(run, folder, name):
    assert run("new", "extension", "--", name).exit_code == 2
    assert not list(folder.iterdir())


class TestBuild:
    def test_text_is_assembled_into_a_component(self, run, hello):
        said = run("build", "hello")
        assert said.exit_code == 0
        assert "Compiled hello/dist/main.wasm" in said.stderr
        assert (hello / "dist/main.wasm").read_bytes().startswith(COMPONENT)

    def test_from_inside_the_folder(self, run, hello, monkeypatch):
        monkeypatch.chdir(hello)
        said = run("build")
        assert "Compiled dist/main.wasm" in said.stderr

    def test_nothing_is_compiled_when_nothing_changed(self, run, hello):
        assert json.loads(run("build", "hello", "--json").stdout)["action"] == "compiled"
        assert json.loads(run("build", "hello", "--json").stdout)["action"] == "unchanged"

    @pytest.mark.parametrize(
        "path", ["src/main.wat", "dist/main.wasm"], ids=["the source", "the result"]
    )
    def test_it_is_compiled_again_when_this_changed(self, run, hello, path):
        run("build", "hello")
        whole = (hello / "dist/main.wasm").read_bytes()
        with (hello / path).open("a") as file:
            file.write("\n")
        assert json.loads(run("build", "hello", "--json").stdout)["action"] == "compiled"
        assert (hello / "dist/main.wasm").read_bytes() == whole

    def test_what_the_compiler_says_is_shown_when_it_fails(self, run, hello):
        run("build", "hello")
        whole = (hello / "dist/main.wasm").read_bytes()
        edit(hello / "src/main.wat", "(core module", "(sore module")
        said = run("build", "hello")
        assert said.exit_code == 1
        assert "sore" in said.stderr
        assert "main.wat cannot be assembled" in said.stderr.splitlines()[-1]
        assert (hello / "dist/main.wasm").read_bytes() == whole

    @pytest.mark.toolchain
    def test_a_syntax_error_in_python_is_told_with_its_line(self, run, folder):
        run("new", "extension", "broken", "--template", "python")
        (folder / "broken" / "src" / "app.py").write_text("import wit_world\n\ndef handler(:\n")
        said = run("build", "broken")
        assert said.exit_code == 1
        *_, last = said.stderr.splitlines()
        assert re.search(r"error: .*src/app.py, line 3: .*Mend it, and build again\.", last)

    @pytest.mark.toolchain
    def test_a_syntax_error_in_javascript_is_told_with_its_line(self, folder):
        source = folder / "index.js"
        source.write_text("export function handler(r) {\n  return {{ status: 200 ;\n}\n")
        assert script_fault(source) == f"{source}, line 2: Unexpected token '{{'"
        source.write_text("export const handler = 1;\n")
        assert script_fault(source) is None

    @pytest.fixture
    def without_tools(self, monkeypatch):
        """Call it to have nothing here that assembles text."""
        return lambda: monkeypatch.setitem(sys.modules, "wasmtime", None)

    def test_what_is_built_needs_no_toolchain(self, run, hello, without_tools):
        run("build", "hello")
        without_tools()
        said = run("build", "hello", "--json")
        assert said.exit_code == 0, said.stderr
        assert json.loads(said.stdout)["action"] == "unchanged"
        assert "wat2wasm is not here" in said.stderr

    def test_what_has_changed_since_does_need_it(self, run, hello, without_tools):
        run("build", "hello")
        without_tools()
        edit(hello / "src/main.wat", "(core module", " (core module")
        said = run("build", "hello")
        assert said.exit_code == 1
        assert "wasmtime, which is not installed" in said.stderr

    @pytest.mark.parametrize(
        ("age_s", "status"), [(-10, 0), (10, 1)], ids=["older sources", "newer sources"]
    )
    def test_without_a_receipt_the_newer_file_tells(self, run, hello, without_tools, age_s, status):
        run("build", "hello")
        (hello / "dist/.built-from").unlink()
        made = (hello / "dist/main.wasm").stat().st_mtime
        for path in (hello / "src").iterdir():
            os.utime(path, (made + age_s, made + age_s))
        without_tools()
        assert run("build", "hello").exit_code == status

    def test_a_damaged_receipt_is_as_one_of_something_else(self, run, hello):
        run("build", "hello")
        (hello / "dist/.built-from").write_bytes(b"\xff\xfe\x00")
        said = run("build", "hello")
        assert said.exit_code == 0
        assert "Compiled" in said.output

    def test_a_python_extension_that_is_built_is_installed_without_its_compiler(
        self, run, folder, hello, monkeypatch
    ):
        run("new", "extension", "snake", "--template", "python")
        run("build", "hello")
        (folder / "snake/dist").mkdir()
        shutil.copy(hello / "dist/main.wasm", folder / "snake/dist/main.wasm")
        monkeypatch.setattr("shutil.which", lambda *args, **more: None)
        said = run("install", "snake", "--json")
        assert said.exit_code == 0, said.stderr
        assert "componentize-py is not here" in said.stderr

    def test_a_core_module_is_no_extension(self, run, hello):
        (hello / "src/main.wat").write_text("(module)")
        said = run("build", "hello")
        assert said.exit_code == 1
        assert "a core module, but an extension is a WebAssembly component" in said.stderr
        assert not (hello / "dist/main.wasm").exists()

    def test_two_sources_are_one_too_many(self, run, hello):
        (hello / "other.wat").write_text("(component)")
        said = run("build", "hello")
        assert said.exit_code == 1
        assert "other.wat, src/main.wat" in said.stderr

    def test_a_mere_page_needs_no_compiler(self, run, folder):
        run("new", "extension", "page", "--template", "ui")
        said = run("build", "page")
        assert said.exit_code == 0
        assert "page is only a UI" in said.stderr

    def test_endpoints_without_a_source_are_a_mistake(self, run, hello):
        (hello / "src/main.wat").unlink()
        said = run("build", "hello")
        assert said.exit_code == 1
        assert "has no source that can be compiled" in said.stderr

    def test_a_component_of_ones_own_making_is_taken_as_it_is(self, run, hello):
        run("build", "hello")
        (hello / "src/main.wat").unlink()
        assert json.loads(run("build", "hello", "--json").stdout)["action"] == "unchanged"

    def test_a_missing_tool_is_named_with_what_to_install(self, run, folder, monkeypatch):
        run("new", "extension", "script", "--template", "javascript")
        monkeypatch.setenv("PATH", str(folder))
        said = run("build", "script")
        assert said.exit_code == 1
        assert said.stderr.splitlines()[-1].endswith("install Node.js.")

    def test_a_main_file_that_is_not_there(self, run, folder):
        run("new", "extension", "script", "--template", "javascript")
        (folder / "script/package.json").write_text('{"main": "lib/nosuch.js"}')
        said = run("build", "script")
        assert said.exit_code == 1
        assert "names lib/nosuch.js as its main file" in said.stderr


class TestPack:
    def test_the_same_files_have_the_same_hash(self, run, hello, folder):
        run("build", "hello")
        first = json.loads(run("pack", "hello", "--json").stdout)
        again = json.loads(run("pack", "hello", "--json", "-o", "again.zst").stdout)
        assert first["content_hash"] == again["content_hash"]
        data = (folder / first["file"]).read_bytes()
        assert data == (folder / "again.zst").read_bytes()
        assert len(data) == first["size"]
        assert bundles.content_hash(data) == first["content_hash"]

    def test_it_says_what_it_left_out_but_not_what_is_hidden(self, run, hello):
        run("build", "hello")
        said = run("pack", "hello")
        assert "demo.hello-0.1.0.tar.zst" in said.stdout
        assert "sha256:" in said.stdout
        assert said.stdout.splitlines()[-1] == "Left out: README.md, src/"

    def test_what_was_not_built_is_not_packed(self, run, hello):
        said = run("pack", "hello")
        assert said.exit_code == 1
        assert "Run `runnerwsgi build` first" in said.stderr

    def test_every_fault_of_a_manifest_is_told(self, run, hello):
        (hello / "manifest.json").write_text('{"name": "Up", "version": "one"}')
        said = run("pack", "hello")
        assert said.exit_code == 1
        assert "$.name" in said.stderr
        assert "$.version" in said.stderr


@pytest.fixture
def fetched(tmp_path):
    """Where the home keeps the toolchains that it fetches: with those of all the tests."""
    toolchains.FETCHED.mkdir(parents=True, exist_ok=True)
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "toolchains").symlink_to(toolchains.FETCHED)


@pytest.mark.toolchain
@pytest.mark.slow
@pytest.mark.parametrize("template", ["python", "javascript"])
def test_a_new_extension_answers(run, folder, fetched, template):
    run("new", "extension", "hello", "--template", template)
    said = run("install", "hello", "--config", "greeting=Welcome")
    assert said.exit_code == 0, said.stderr
    said = run("execute", "demo.hello", "GET", "/hello", "--user", "Ada", "--json")
    answer = json.loads(said.stdout)
    assert (answer["status"], answer["body"]) == (200, "Welcome, Ada!")
    assert answer["logs"] == [{"level": "info", "message": "Ada said hello"}]
    said = run("execute", "demo.hello", "GET", "/hello", "--tenant", "other")
    assert said.exit_code == 1
    assert called_by_a_user_without_a_name() == b"Welcome, u1!"


def called_by_a_user_without_a_name():
    nobody = Principal("default", "u1")
    middleware = RunnerMiddleware.from_env(lambda *_: [], identify=lambda _: nobody)
    with closing(middleware):
        return Client(middleware).get("/api/ext/demo.hello/hello").data


@pytest.mark.toolchain
def test_the_traceback_of_a_faulty_module_is_shown(run, folder):
    run("new", "extension", "hello", "--template", "python")
    (folder / "hello/src/app.py").write_text("import nosuch\n")
    said = run("build", "hello")
    assert said.exit_code == 1
    assert "No module named 'nosuch'" in said.stderr
    assert "componentize-py failed" in said.stderr.splitlines()[-1]
