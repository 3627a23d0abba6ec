"""The environment: read once, by one table, with every fault told together."""

import logging
from pathlib import Path

import pytest

from runnerwsgi import Settings
from runnerwsgi.errors import ConfigurationError, StorageError
from runnerwsgi.settings import SETTINGS, Setting, integer, read, text, warn_of_unknown

TOKEN = "t" * 40


def faults_of(**env):
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(env)
    return caught.value.faults


def test_an_empty_environment_gives_the_defaults():
    assert Settings.from_env({}) == Settings()


def test_an_empty_variable_counts_as_not_set():
    assert Settings.from_env({"RUNNER_TIMEOUT_MS": "", "RUNNER_BACKEND": ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("RUNNER_BACKEND", "wasm", "backend", "wasm"),
        ("RUNNER_PLUGINS", "audit, metrics,", "plugins", ("audit", "metrics")),
        ("RUNNER_PUBLIC_BASE", "/ext/", "public_base", "/ext"),
        ("RUNNER_TIMEOUT_MS", "100", "timeout_ms", 100),
        ("RUNNER_TIMEOUT_MS", "600000", "timeout_ms", 600_000),
        ("RUNNER_ALLOW_INSECURE", "Yes", "allow_insecure", True),
        ("RUNNER_ALLOW_INSECURE", "off", "allow_insecure", False),
        ("RUNNER_HOME", "/srv/x", "home", Path("/srv/x")),
        ("RUNNER_PUBLIC_ORIGINS", "https://a.test", "public_origins", ("https://a.test",)),
        ("RUNNER_EGRESS_ALLOW", "https://*.a.test", "egress_allow", ("https://*.a.test",)),
    ],
)
def test_a_variable_becomes_a_field(name, value, field, expected):
    assert getattr(Settings.from_env({name: value}), field) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNNER_TIMEOUT_MS", "99"),
        ("RUNNER_TIMEOUT_MS", "600001"),
        ("RUNNER_TIMEOUT_MS", "30s"),
        ("RUNNER_TIMEOUT_MS", "\u0661\u0660\u0660\u0660"),
        ("RUNNER_TIMEOUT_MS", "1_000"),
        ("RUNNER_TIMEOUT_MS", " 1000"),
        ("RUNNER_TIMEOUT_MS", "9" * 5000),
        ("RUNNER_ALLOW_INSECURE", "maybe"),
        ("RUNNER_UI", "Proxy"),
        ("RUNNER_PUBLIC_BASE", "/"),
        ("RUNNER_PUBLIC_BASE", "runner"),
        ("RUNNER_PUBLIC_BASE", "https://a.test"),
        ("RUNNER_PUBLIC_BASE", "https://user@a.test/runner"),
        ("RUNNER_PUBLIC_BASE", "/runner?x"),
        ("RUNNER_EXECUTE_MOUNT", "/api/../x"),
        ("RUNNER_EXECUTE_MOUNT", "/api/.hidden"),
        ("RUNNER_PUBLIC_ORIGINS", "https://a.test/"),
        ("RUNNER_PUBLIC_ORIGINS", "null"),
        ("RUNNER_EGRESS_ALLOW", "https://ok.test, *"),
        ("RUNNER_IDENTITY", "anybody"),
        ("RUNNER_IDENTITY_HEADER", "X-Tenant: a"),
        ("RUNNER_LOG_LEVEL", "trace"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, value):
    (fault,) = faults_of(**{name: value})
    assert fault.startswith(f"{name}: ")
    assert "found" in fault


def test_all_faults_are_told_together(tmp_path):
    faults = faults_of(
        RUNNER_TIMEOUT_MS="soon",
        RUNNER_THREADS="0",
        RUNNER_IDENTITY="header",
        RUNNER_EXECUTE_MOUNT="/runner/api",
        RUNNER_SERVICE_TOKEN_FILE=str(tmp_path / "missing"),
    )
    named = (
        "RUNNER_TIMEOUT_MS",
        "RUNNER_THREADS",
        "RUNNER_IDENTITY_HEADER",
        "RUNNER_EXECUTE_MOUNT overlap",
        "RUNNER_SERVICE_TOKEN_FILE",
    )
    assert len(faults) == len(named)
    assert all(any(name in fault for fault in faults) for name in named)


@pytest.mark.parametrize("token", ["", "change-me-" * 4, "<your_secret_service_token_here>"])
def test_a_token_that_is_none_is_refused(token):
    (fault,) = faults_of(RUNNER_SERVICE_TOKEN=token)
    assert fault.startswith("RUNNER_SERVICE_TOKEN: ")


def test_a_token_and_its_file_are_not_both_set(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    (fault,) = faults_of(RUNNER_SERVICE_TOKEN=TOKEN, RUNNER_SERVICE_TOKEN_FILE=str(file))
    assert "both set" in fault


@pytest.mark.parametrize("token", ["short", "ü" * 40, "t" * 40 + "\n", "a b" * 20])
def test_a_bad_token_is_refused_and_never_shown(token):
    (fault,) = faults_of(RUNNER_SERVICE_TOKEN=token)
    assert token.strip() not in fault


def test_a_token_is_read_from_its_file_and_its_line_end_dropped(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    settings = Settings.from_env({"RUNNER_SERVICE_TOKEN_FILE": str(file)})
    assert settings.service_token.reveal() == TOKEN
    assert TOKEN not in repr(settings)


def test_an_older_name_is_taken_with_a_warning(caplog):
    assert Settings.from_env({"EXT_GATEWAY_TIMEOUT_MS": "5000"}).timeout_ms == 5000
    assert "set RUNNER_TIMEOUT_MS instead" in caplog.text


def test_an_older_name_that_differs_is_a_fault():
    (fault,) = faults_of(EXT_GATEWAY_TIMEOUT_MS="5000", RUNNER_TIMEOUT_MS="6000")
    assert "unset EXT_GATEWAY_TIMEOUT_MS" in fault
    same = {"EXT_GATEWAY_TIMEOUT_MS": "5000", "RUNNER_TIMEOUT_MS": "5000"}
    assert Settings.from_env(same).timeout_ms == 5000


@pytest.mark.parametrize(
    ("threads", "reserved", "most", "slots", "per_extension"),
    [
        (4, 2, None, 2, 2),
        (8, 2, None, 6, 5),
        (1, 2, None, 1, 1),
        (5, 2, None, 3, 2),
        (8, 2, 1, 6, 1),
        (4, 2, 9, 2, 2),
    ],
)
def test_slots_are_what_the_application_does_not_need(
    threads, reserved, most, slots, per_extension
):
    settings = Settings(threads=threads, reserved_threads=reserved, max_per_extension=most)
    assert (settings.slots, settings.slots_per_extension) == (slots, per_extension)
    assert settings.fetches == max(1, threads - slots - 1)


def test_an_absolute_base_brings_its_mount_and_no_origin_of_ours():
    settings = Settings(public_base="https://ui.test:8443/ext/runner")
    assert settings.mount == "/ext/runner"
    assert settings.public_origins == ()


@pytest.mark.parametrize(
    ("base", "mount", "overlap"),
    [
        ("/runner", "/runner", True),
        ("/runner", "/runner/api", True),
        ("/api/ext/ui", "/api/ext", True),
        ("/runner", "/runners", False),
    ],
)
def test_mounts_must_not_lie_in_each_other(base, mount, overlap):
    if not overlap:
        assert Settings(public_base=base, execute_mount=mount)
        return
    with pytest.raises(ConfigurationError, match="overlap"):
        Settings(public_base=base, execute_mount=mount)


def test_folders_follow_the_home(tmp_path):
    settings = Settings(home=tmp_path)
    assert settings.bundle_store == str(tmp_path / "bundles")
    assert settings.database_url.endswith(f"{tmp_path}/runnerwsgi.db")


def test_a_plugin_reads_its_own_variables_with_the_same_table():
    table = (
        Setting("RUNNER_ECHO_GREETING", text, "hello", "What it says.", owner="echo"),
        Setting("RUNNER_ECHO_TIMES", integer(1, 9), 1, "How often.", owner="echo"),
    )
    assert read(table, {"RUNNER_ECHO_TIMES": "3"}) == {
        "RUNNER_ECHO_GREETING": "hello",
        "RUNNER_ECHO_TIMES": 3,
    }
    with pytest.raises(ConfigurationError, match="RUNNER_ECHO_TIMES"):
        read(table, {"RUNNER_ECHO_TIMES": "10"})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("RUNNER_TIMEOUT", "Did you mean RUNNER_TIMEOUT_MS?"),
        ("RUNNER_BAKEND", "Did you mean RUNNER_BACKEND?"),
        ("RUNNER_QQQQQQQQQQ", "`runnerwsgi env` lists the known ones."),
    ],
)
def test_an_unknown_variable_is_warned_about_with_the_nearest_name(name, hint, caplog):
    with caplog.at_level(logging.WARNING):
        assert warn_of_unknown({name: "x", "PATH": "/bin"}, ()) == (name,)
    assert f"{name} is not a setting and has no effect. {hint}" in caplog.text


def test_a_plugins_own_variables_are_known():
    assert warn_of_unknown({"RUNNER_MY_ECHO_PORT": "1"}, ["my-echo"]) == ()


def test_what_an_image_says_of_itself_is_no_mistake():
    assert warn_of_unknown({"RUNNER_IMAGE": "x", "RUNNER_REVISION": "y"}, ()) == ()


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)
def test_every_row_says_what_it_means(row):
    assert row.name == row.name.upper()
    assert row.meaning.endswith(".")
    assert row.default_text


def test_the_home_folder_is_made_for_its_owner_only(tmp_path):
    home = tmp_path / "new" / "home"
    Settings(home=home).make_home()
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"RUNNER_HOME: .*/file/home cannot be made"):
        Settings(home=tmp_path / "file" / "home").make_home()
