import copy
import json
import logging
import os
import pickle
import stat
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from runnerwsgi.errors import ConfigurationError, SecretsUnavailable, StorageError
from runnerwsgi.secrets import Secret, Vault

CANARY = "canary-7f3a9b"


@pytest.mark.parametrize(
    "show",
    [
        pytest.param(repr, id="repr"),
        pytest.param(str, id="str"),
        pytest.param("{}".format, id="format"),
        pytest.param("{0!r:>40}".format, id="padded format"),
        pytest.param(lambda secret: repr({"token": [secret]}), id="inside a container"),
        pytest.param(lambda secret: "%s" % secret, id="percent format"),  # noqa: UP031 the form logging uses
    ],
)
def test_a_secret_does_not_show_itself(show):
    assert CANARY not in show(Secret(CANARY))


def test_a_secret_is_revealed_where_it_is_asked_for():
    assert Secret(CANARY).reveal() == CANARY


def test_a_secret_stays_out_of_a_log(caplog):
    logging.getLogger("test").warning("token %s %r", Secret(CANARY), Secret(CANARY))
    assert "[secret]" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_not_pickled(protocol):
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Secret(CANARY), protocol)


def test_a_secret_is_not_json():
    with pytest.raises(TypeError):
        json.dumps({"token": Secret(CANARY)})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param("abc", Secret("abc"), True, id="the same secret"),
        pytest.param("abc", "abc", True, id="the same text"),
        pytest.param("abc", Secret("abd"), False, id="another secret"),
        pytest.param("abc", "ab", False, id="a prefix"),
        pytest.param("é", "é", True, id="not ascii"),
        pytest.param("\ud800", "x", False, id="a lone surrogate"),
        pytest.param("abc", None, False, id="nothing"),
    ],
)
def test_secrets_compare_by_their_text(one, other, same):
    assert (Secret(one) == other) is same


def test_a_copy_is_the_secret_itself():
    secret = Secret(CANARY)
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret


def test_an_empty_secret_is_false():
    assert not Secret("")
    assert Secret("x")


def test_equal_secrets_share_a_hash():
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


@pytest.fixture
def vault(tmp_path):
    return Vault(tmp_path / "home" / "secret.key")


@pytest.mark.parametrize("value", ["s3cr3t", "", "Grüße 🎉", "x" * 100_000], ids=len)
def test_what_was_sealed_opens(vault, value):
    assert vault.open("i1/key", vault.seal("i1/key", value)) == value


def test_a_sealed_value_is_not_readable_and_never_twice_the_same(vault):
    one, other = vault.seal("i1/key", CANARY), vault.seal("i1/key", CANARY)
    assert one != other
    assert CANARY.encode() not in one


def test_the_key_file_is_its_owners_alone(vault):
    vault.seal("i1/key", "x")
    assert stat.S_IMODE(vault.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(vault.key_file.parent.stat().st_mode) == 0o700
    assert os.listdir(vault.key_file.parent) == ["secret.key"]


def test_another_vault_over_the_same_file_opens(vault):
    token = vault.seal("i1/key", "x")
    assert Vault(vault.key_file).open("i1/key", token) == "x"


def test_a_token_of_another_row_does_not_open(vault):
    token = vault.seal("i1/key", "x")
    with pytest.raises(SecretsUnavailable, match="i2/key"):
        vault.open("i2/key", token)


def test_another_key_does_not_open(vault, tmp_path):
    stranger = Vault(tmp_path / "other.key")
    stranger.seal("a", "b")
    with pytest.raises(SecretsUnavailable, match=r"other\.key"):
        stranger.open("i1/key", vault.seal("i1/key", "x"))


def test_a_damaged_token_does_not_open(vault):
    token = bytearray(vault.seal("i1/key", "x"))
    token[30] ^= 1
    with pytest.raises(SecretsUnavailable):
        vault.open("i1/key", bytes(token))


def test_a_missing_key_file_says_what_to_do(vault):
    token = vault.seal("i1/key", "x")
    vault.key_file.unlink()
    with pytest.raises(SecretsUnavailable, match="is gone"):
        Vault(vault.key_file).open("i1/key", token)


def test_a_new_key_on_top_seals_and_the_old_one_still_opens(vault):
    from cryptography.fernet import Fernet

    old = vault.seal("i1/key", "x")
    new_key = Fernet.generate_key()
    vault.key_file.write_bytes(new_key + b"\n" + vault.key_file.read_bytes())
    changed = Vault(vault.key_file)
    assert changed.open("i1/key", old) == "x"
    Fernet(new_key).decrypt(changed.seal("i1/key", "y"))


@pytest.mark.parametrize("content", [b"", b"not a key\n"], ids=["empty", "garbage"])
def test_a_key_file_of_something_else_is_refused(vault, content):
    vault.key_file.parent.mkdir()
    vault.key_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="something else"):
        vault.seal("i1/key", "x")


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        Vault(tmp_path / "file" / "secret.key").seal("i1/key", "x")


def test_vaults_that_start_together_share_one_key(tmp_path):
    vaults = [Vault(tmp_path / "secret.key") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda vault: vault.seal("p", "x"), vaults))
    assert {vaults[0].open("p", token) for token in tokens} == {"x"}


def test_secrets_cost_no_import_of_cryptography():
    import subprocess

    code = "import sys, runnerwsgi.secrets; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_derived_keys_differ_by_purpose_and_tell_nothing_of_the_file(vault):
    (one,) = vault.derive("one")
    assert vault.derive("one") == (one,)
    assert vault.derive("two") != (one,)
    assert len(one) == 32
    assert one not in vault.key_file.read_bytes()


def test_keys_are_derived_from_each_line_of_the_file(vault, tmp_path):
    old = vault.derive("one")
    other = Vault(tmp_path / "other.key")
    new = other.derive("one")
    other.key_file.write_bytes(other.key_file.read_bytes() + vault.key_file.read_bytes())
    assert Vault(other.key_file).derive("one") == (*new, *old)


def test_nothing_is_derived_from_a_file_of_something_else(vault):
    vault.key_file.parent.mkdir(exist_ok=True)
    vault.key_file.write_text("not a key\n")
    with pytest.raises(ConfigurationError, match="something else than keys"):
        vault.derive("one")
