"""`push`, and `install` from a store on another machine."""

import json
import shutil

import pytest
from far_stores import web_server


@pytest.fixture
def web(tmp_path, monkeypatch):
    with web_server(tmp_path / "served") as server:
        monkeypatch.setenv("RUNNER_BUNDLE_STORE", server.url)
        monkeypatch.setenv("RUNNER_ALLOW_INSECURE", "1")
        yield server


@pytest.fixture
def bucket(s3_server, monkeypatch):
    s3_server.use(monkeypatch)
    url = f"s3://{s3_server.bucket()}/here"
    monkeypatch.setenv("RUNNER_BUNDLE_STORE", url)
    return url


@pytest.fixture
def file(run, hello, folder):
    """A bundle's file, which nothing has to be built for."""
    run("build", "hello")
    return shutil.copyfile(
        json.loads(run("pack", "hello", "--json").stdout)["file"], folder / "hello.tar.zst"
    )


class TestPush:
    def test_a_folder_is_built_packed_and_uploaded(self, run, hello, bucket):
        said = run("push", "hello")
        assert said.exit_code == 0, said.stderr
        assert said.stdout.startswith(f"Pushed demo.hello 0.1.0 to {bucket} (")

    def test_programs_are_told_what_was_uploaded(self, run, file, bucket):
        done = json.loads(run("push", str(file), "--tenant", "acme", "--json").stdout)
        assert {name: done[name] for name in ("store", "tenant", "extension", "version")} == {
            "store": bucket,
            "tenant": "acme",
            "extension": "demo.hello",
            "version": "0.1.0",
        }
        assert done["bytes"] == file.stat().st_size

    def test_into_a_folder(self, run, hello, tmp_path):
        said = run("push", "hello")
        assert f"to {tmp_path / 'home/bundles'} (" in said.stdout

    def test_nothing_is_installed(self, run, file, bucket):
        run("push", str(file))
        assert json.loads(run("installs", "--json").stdout)["installs"] == []

    @pytest.mark.parametrize("command", ["push", "install"])
    def test_a_store_that_refuses_is_one_line(self, run, file, web, command):
        web.token = "another"
        said = run(command, str(file), *(["--push"] if command == "install" else []))
        assert said.exit_code == 1
        assert said.stdout == "" or command == "install"
        (line,) = [text for text in said.stderr.splitlines() if text.startswith("error: ")]
        assert "401, it wants to know who asks: set RUNNER_BUNDLE_STORE_TOKEN" in line

    def test_what_is_no_bundle_is_not_uploaded(self, run, folder, web):
        (folder / "x.tar.zst").write_bytes(b"x")
        assert run("push", "x.tar.zst").exit_code == 1
        assert web.asked == []

    def test_what_is_not_there(self, run, folder, web):
        said = run("push", "nothing")
        assert said.exit_code == 1
        assert "nothing does not exist" in said.stderr


class TestInstall:
    @pytest.mark.parametrize("place", ["web", "bucket"])
    def test_it_is_pushed_installed_and_runs(self, run, hello, request, place):
        request.getfixturevalue(place)
        said = run("install", "hello", "--push")
        assert said.exit_code == 0, said.stderr
        called = run("execute", "demo.hello", "GET", "/hello")
        assert called.exit_code == 0, called.stderr
        assert "GET /hello" in called.stdout

    @pytest.mark.usefixtures("own_code")
    def test_another_machine_fetches_it(self, run, hello, bucket, tmp_path, monkeypatch):
        assert run("install", "hello", "--push").exit_code == 0
        for name in ("bundle-cache", "wasm"):
            shutil.rmtree(tmp_path / "home" / name)
        called = run("execute", "demo.hello", "GET", "/hello")
        assert called.exit_code == 0, called.stderr
        assert [*(tmp_path / "home/bundle-cache/sha256").iterdir()]

    def test_what_is_in_the_store_needs_no_push(self, run, file, bucket):
        assert run("push", str(file)).exit_code == 0
        assert run("install", str(file)).exit_code == 0

    def test_what_is_not_in_the_store_is_not_installed(self, run, file, web):
        said = run("install", str(file))
        assert said.exit_code == 1
        assert "Nothing was installed; --push uploads it first." in said.stderr
        assert json.loads(run("installs", "--json").stdout)["installs"] == []

    def test_a_folder_needs_no_push_and_does_not_mind_it(self, run, hello):
        assert run("install", "hello", "--push").exit_code == 0

    def test_the_doctor_looks_into_the_store(self, run, hello, bucket, tmp_path):
        run("install", "hello", "--push")
        rows = json.loads(run("doctor", "--json").stdout)["findings"]
        assert [row["found"] for row in rows if row["what"] == "store"] == [bucket]

    def test_the_doctor_says_what_the_store_lacks(self, run, hello, web, tmp_path):
        run("install", "hello", "--push")
        shutil.rmtree(tmp_path / "served")
        shutil.rmtree(tmp_path / "home/bundle-cache")
        rows = json.loads(run("doctor", "--json").stdout)["findings"]
        (found,) = [row["found"] for row in rows if row["what"].startswith("demo.hello")]
        assert f"{web.url} has no tenants/default/extensions/demo.hello/" in found
