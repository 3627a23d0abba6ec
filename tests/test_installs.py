import logging
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from own_servers import PostgresServer, sqlite_only

from runnerwsgi.database import Database, metadata
from runnerwsgi.errors import ConfigurationError, SecretsUnavailable, StorageError
from runnerwsgi.installs import Installs
from runnerwsgi.manifest import DEFAULT_GRANTS, Manifest
from runnerwsgi.routes import RouteGrant
from runnerwsgi.secrets import Vault
from runnerwsgi.settings import Settings

HASH = "sha256:" + "a" * 64
OTHER_HASH = "sha256:" + "b" * 64
CANARY = "canary-5d1e"


def manifest(version="1.0.0"):
    return Manifest.from_json(f'{{"name": "acme.hello", "version": "{version}"}}')


def open_installs(home, url):
    return Installs(Database(url), Vault(home / "secret.key"))


@pytest.fixture
def installs(tmp_path, database_url):
    installs = open_installs(tmp_path, database_url)
    yield installs
    installs.close()


@pytest.fixture
def other_process(tmp_path, database_url):
    """Installs over the same database, as another process of the server has them."""
    installs = open_installs(tmp_path, database_url)
    yield installs
    installs.close()


def test_nothing_is_installed_at_first(installs):
    assert installs.find("acme", "acme.hello") is None
    assert installs.by_hash("acme.hello", HASH) is None
    assert installs.list() == ()


def test_an_install_is_found_with_all_it_was_given(installs):
    before = datetime.now(UTC)
    added = installs.add(
        "acme",
        "acme.hello",
        HASH,
        manifest(),
        config={"unit": "h"},
        grants=["cap:storage.kv", "cap:user.read"],
        egress=["https://API.example.com:443/"],
        routes=["GET /api/x/*", RouteGrant("POST", "/api/y")],
        ui_digests={"index.html": "0" * 64},
        memory_mb=64,
        timeout_ms=500,
    )
    found = installs.find("acme", "acme.hello")
    assert found is added
    assert (found.tenant_id, found.extension_id, found.content_hash) == ("acme", "acme.hello", HASH)
    assert found.version == "1.0.0"
    assert found.manifest == manifest()
    assert found.config == {"unit": "h"}
    assert found.grants == (*DEFAULT_GRANTS, "cap:storage.kv")
    assert found.egress == ("https://api.example.com",)
    assert found.routes == (RouteGrant("GET", "/api/x/*"), RouteGrant("POST", "/api/y"))
    assert found.ui_digests == {"index.html": "0" * 64}
    assert (found.memory_mb, found.timeout_ms) == (64, 500)
    assert before <= found.created_at <= datetime.now(UTC)


def test_tenants_do_not_see_each_other(installs):
    installs.add("acme", "acme.hello", HASH, manifest())
    assert installs.find("other", "acme.hello") is None
    assert installs.list("other") == ()


def test_installs_are_listed_by_tenant_and_extension(installs):
    for tenant, extension in [("b", "x"), ("a", "y"), ("a", "x")]:
        installs.add(tenant, extension, HASH, manifest())
    assert [(one.tenant_id, one.extension_id) for one in installs.list()] == [
        ("a", "x"),
        ("a", "y"),
        ("b", "x"),
    ]
    assert [one.extension_id for one in installs.list("a")] == ["x", "y"]


def test_any_tenants_install_is_found_by_its_hash(installs):
    first = installs.add("acme", "acme.hello", HASH, manifest())
    installs.add("other", "acme.hello", HASH, manifest())
    installs.add("third", "acme.hello", OTHER_HASH, manifest("2.0.0"))
    assert installs.by_hash("acme.hello", HASH) == first
    assert installs.by_hash("acme.hello", OTHER_HASH).tenant_id == "third"
    assert installs.by_hash("acme.bye", HASH) is None


def test_what_a_page_may_do_is_what_any_tenant_allows(installs):
    installs.add("old", "acme.hello", HASH, manifest())
    installs.add("new", "acme.hello", HASH, manifest(), sandbox=["allow-forms"])
    installs.add("third", "acme.hello", HASH, manifest(), sandbox=["allow-popups"])
    shared = installs.by_hash("acme.hello", HASH)
    assert shared.tenant_id == "old"
    assert set(shared.sandbox) == {"allow-forms", "allow-popups"}
    assert installs.find("old", "acme.hello").sandbox == ()


def test_a_new_version_replaces_the_whole_state_and_keeps_id_and_age(installs):
    old = installs.add(
        "acme", "acme.hello", HASH, manifest(), config={"a": "1"}, grants=["cap:storage.kv"]
    )
    new = installs.add("acme", "acme.hello", OTHER_HASH, manifest("2.0.0"))
    assert (new.install_id, new.created_at) == (old.install_id, old.created_at)
    assert (new.version, new.config, new.grants) == ("2.0.0", {}, DEFAULT_GRANTS)
    assert installs.by_hash("acme.hello", HASH) is None
    assert len(installs.list()) == 1


def test_secrets_stay_unless_they_are_given(installs):
    install_id = installs.add(
        "acme", "acme.hello", HASH, manifest(), secrets={"b": CANARY, "a": "x"}
    ).install_id
    installs.add("acme", "acme.hello", OTHER_HASH, manifest("2.0.0"))
    assert installs.secret_keys(install_id) == ("a", "b")
    assert installs.secret(install_id, "b") == CANARY
    installs.add("acme", "acme.hello", OTHER_HASH, manifest("2.0.0"), secrets={"c": "y"})
    assert installs.secret_keys(install_id) == ("c",)
    assert installs.secret(install_id, "b") is None


@sqlite_only
def test_secrets_are_not_readable_on_disk(installs, tmp_path):
    installs.add("acme", "acme.hello", HASH, manifest(), secrets={"key": CANARY})
    installs.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"acme.hello" in content
    assert CANARY.encode() not in content


def test_a_secret_copied_to_another_install_does_not_open(installs):
    rich = installs.add("acme", "acme.hello", HASH, manifest(), secrets={"key": CANARY})
    poor = installs.add("other", "acme.hello", HASH, manifest(), secrets={"key": "x"})
    table = metadata.tables["install_secrets"]
    with installs.database.begin() as connection:
        of_rich = table.c.install_id == rich.install_id
        sealed = connection.execute(sa.select(table.c.sealed).where(of_rich)).scalar()
        of_poor = table.c.install_id == poor.install_id
        connection.execute(table.update().where(of_poor).values(sealed=sealed))
    with pytest.raises(SecretsUnavailable):
        installs.secret(poor.install_id, "key")


def test_an_install_is_copied_as_it_is(installs, tmp_path):
    installs.add("acme", "acme.other", HASH, manifest())
    given = {"config": {"unit": "h"}, "grants": ["cap:storage.kv"], "secrets": {"key": CANARY}}
    one = installs.add("acme", "acme.hello", HASH, manifest(), **given)
    (tmp_path / "scratch").mkdir()
    database = Database(f"sqlite:///{tmp_path}/scratch/copy.db")
    with closing(Installs(database, installs.vault)) as scratch:
        installs.copy(one, scratch)
        assert scratch.list() == (one,)
        assert scratch.secret(one.install_id, "key") == CANARY
        with pytest.raises(StorageError):
            installs.copy(one, scratch)


def test_uninstalling_takes_the_secrets_along(installs):
    install_id = installs.add(
        "acme", "acme.hello", HASH, manifest(), secrets={"key": CANARY}
    ).install_id
    assert installs.remove("acme", "acme.hello") is True
    assert installs.find("acme", "acme.hello") is None
    assert installs.by_hash("acme.hello", HASH) is None
    assert installs.secret(install_id, "key") is None
    assert installs.remove("acme", "acme.hello") is False


def eventually(look, within=2.5):
    deadline = time.monotonic() + within
    while not look() and time.monotonic() < deadline:
        time.sleep(0.02)
    return look()


def test_another_process_sees_a_change_within_a_second_or_so(installs, other_process):
    assert other_process.find("acme", "acme.hello") is None
    installs.add("acme", "acme.hello", HASH, manifest())
    assert eventually(lambda: other_process.find("acme", "acme.hello"))
    installs.remove("acme", "acme.hello")
    assert eventually(lambda: not other_process.find("acme", "acme.hello"))


def test_what_did_not_change_is_not_read_again(installs):
    kept = installs.add("acme", "acme.hello", HASH, manifest())
    installs.add("acme", "acme.bye", HASH, manifest())
    assert installs.find("acme", "acme.hello") is kept


def test_looking_up_does_not_ask_the_database(installs):
    installs.add("acme", "acme.hello", HASH, manifest())
    asked = []
    engine = installs.database._open()
    sa.event.listen(engine, "begin", lambda connection: asked.append(connection))
    started = time.monotonic()
    for _ in range(10_000):
        installs.find("acme", "acme.hello")
    assert len(asked) <= 1 + (time.monotonic() - started)


@sqlite_only
def test_a_database_that_fails_leaves_the_copy_in_use(installs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    installs.add("acme", "acme.hello", HASH, manifest())
    file = tmp_path / "runnerwsgi.db"
    installs.close()
    file.rename(tmp_path / "aside")
    for leftover in tmp_path.glob("runnerwsgi.db-*"):
        leftover.unlink()
    file.mkdir()
    for _ in range(3):
        installs._next_look = 0.0
        assert installs.find("acme", "acme.hello") is not None
        assert installs._next_look > time.monotonic() + 2
    assert caplog.text.count("served from memory") == 1
    with pytest.raises(StorageError):
        installs.remove("acme", "acme.hello")
    file.rmdir()
    (tmp_path / "aside").rename(file)
    installs._next_look = 0.0
    assert installs.find("acme", "acme.hello") is not None
    assert caplog.text.count("is back.") == 1


@pytest.mark.postgres
def test_a_server_that_fails_leaves_the_copy_in_use(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with (
        PostgresServer() as server,
        closing(open_installs(tmp_path, server.new_store())) as installs,
    ):
        installs.add("acme", "acme.hello", HASH, manifest())
        server.stop()
        installs._next_look = 0.0
        assert installs.find("acme", "acme.hello") is not None
        assert "check that the server runs, and RUNNER_DATABASE_URL" in caplog.text
        with pytest.raises(StorageError):
            installs.remove("acme", "acme.hello")
        server.start()
        installs._next_look = 0.0
        assert installs.find("acme", "acme.hello") is not None
        assert caplog.text.count("is back.") == 1
        assert installs.remove("acme", "acme.hello")


def test_a_database_that_was_never_read_is_an_error(tmp_path):
    (tmp_path / "runnerwsgi.db").mkdir()
    url = f"sqlite:///{tmp_path}/runnerwsgi.db"
    with pytest.raises(StorageError, match=r"runnerwsgi\.db"):
        open_installs(tmp_path, url).find("acme", "acme.hello")


def test_one_damaged_row_is_left_out_and_named(installs, other_process, caplog):
    installs.add("acme", "acme.hello", HASH, manifest())
    installs.add("acme", "acme.broken", HASH, manifest())
    table = metadata.tables["installs"]
    with installs.database.begin() as connection:
        broken = table.c.extension_id == "acme.broken"
        connection.execute(table.update().where(broken).values(record="{"))
    assert other_process.find("acme", "acme.hello") is not None
    assert other_process.find("acme", "acme.broken") is None
    assert "acme.broken for tenant acme cannot be read" in caplog.text


@sqlite_only
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        pytest.param({"tenant_id": ""}, "tenant_id is", id="no tenant"),
        pytest.param({"tenant_id": "a\nb"}, "tenant_id is", id="control in the tenant"),
        pytest.param({"extension_id": "../x"}, "extension_id is", id="path as extension"),
        pytest.param({"content_hash": "abc"}, "content_hash is", id="no hash"),
        pytest.param({"manifest": Manifest("a.b", "1.0.0")}, "from_json", id="unread manifest"),
        pytest.param({"config": {"a": 1}}, "config is", id="number in the config"),
        pytest.param({"grants": ["storage.kv"]}, "is not a capability", id="grant without cap:"),
        pytest.param({"egress": ["*"]}, "is not an egress entry", id="egress to everywhere"),
        pytest.param({"routes": ["FETCH /x"]}, "begins with no method", id="unknown method"),
        pytest.param({"routes": ["GET /a/../b"]}, "is not a path", id="route that walks"),
        pytest.param({"memory_mb": 0}, "memory_mb is", id="no memory"),
        pytest.param({"memory_mb": True}, "memory_mb is", id="a bool as memory"),
        pytest.param({"timeout_ms": -1}, "timeout_ms is", id="negative time"),
        pytest.param({"ui_digests": {"a": 1}}, "ui_digests is", id="digest that is no text"),
        pytest.param({"secrets": {"": "x"}}, "Secrets are", id="secret without a name"),
    ],
)
def test_what_is_wrong_is_refused_and_named(installs, wrong, says):
    right = {
        "tenant_id": "acme",
        "extension_id": "acme.hello",
        "content_hash": HASH,
        "manifest": manifest(),
    }
    with pytest.raises(ConfigurationError, match=says):
        installs.add(**{**right, **wrong})
    assert installs.list() == ()


def test_all_faults_are_told_together(installs):
    with pytest.raises(ConfigurationError) as refused:
        installs.add("acme", "x", "no hash", manifest(), grants=["x"], routes=["x"], egress=["x"])
    assert len(refused.value.faults) == 4


def test_a_value_of_a_secret_is_never_told(installs):
    with pytest.raises(ConfigurationError) as refused:
        installs.add("acme", "x", HASH, manifest(), secrets={"": CANARY})
    assert CANARY not in str(refused.value)


def test_settings_say_where_everything_is(tmp_path):
    installs = Installs.from_settings(Settings(home=tmp_path / "home"))
    installs.add("acme", "acme.hello", HASH, manifest(), secrets={"key": "x"})
    installs.close()
    names = {path.name for path in (tmp_path / "home").iterdir()}
    assert {"runnerwsgi.db", "secret.key"} <= names


INSTALL_ONE = f"""
import sys
from pathlib import Path
from runnerwsgi import Installs, Settings
from runnerwsgi.manifest import Manifest

manifest = Manifest.from_json('{{"name": "acme.hello", "version": "1.0.0"}}')
settings = Settings(home=Path(sys.argv[1]), database_url=sys.argv[3])
installs = Installs.from_settings(settings)
installs.add("acme", sys.argv[2], "{HASH}", manifest, secrets={{"key": sys.argv[2]}})
"""


def test_processes_that_install_at_once_lose_nothing(installs, tmp_path, database_url):
    command = [sys.executable, "-c", INSTALL_ONE, str(tmp_path)]
    processes = [subprocess.Popen([*command, f"x{n}", database_url]) for n in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 3
    assert [install.extension_id for install in installs.list()] == ["x0", "x1", "x2"]
    for install in installs.list():
        assert installs.secret(install.install_id, "key") == install.extension_id
