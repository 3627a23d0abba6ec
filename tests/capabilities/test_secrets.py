import pytest

from runnerwsgi.capabilities.secrets import InstallSecrets
from runnerwsgi.errors import CapabilityError
from runnerwsgi.manifest import Manifest

HASH = "sha256:" + "a" * 64
MANIFEST = Manifest.from_json('{"name": "demo.notes", "version": "1.0.0"}')


@pytest.fixture
def secrets(installs):
    return InstallSecrets(installs)


@pytest.fixture
def install_id(installs):
    given = {"b": "Grüße", "a": ""}
    return installs.add("acme", "demo.notes", HASH, MANIFEST, secrets=given).install_id


def test_a_guest_reads_its_own_secrets(secrets, make_call, install_id):
    call = make_call(install_id=install_id)
    assert secrets.list_keys(call) == ["a", "b"]
    assert [secrets.get(call, key) for key in ("a", "b")] == ["", "Grüße"]


@pytest.mark.parametrize("key", ["c", "", "B", "../a"])
def test_a_secret_that_is_not_there_is_missing(secrets, make_call, install_id, key):
    with pytest.raises(CapabilityError) as refused:
        secrets.get(make_call(install_id=install_id), key)
    assert refused.value.case == "missing"


@pytest.mark.parametrize("other", ["another install", None])
def test_another_install_sees_nothing(secrets, make_call, install_id, other):
    call = make_call(install_id=other)
    assert secrets.list_keys(call) == []
    with pytest.raises(CapabilityError):
        secrets.get(call, "b")
