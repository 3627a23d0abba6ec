"""A call and a database for every test of a capability."""

import pytest

from runnerwsgi.access import Principal
from runnerwsgi.capabilities import Call
from runnerwsgi.database import Database
from runnerwsgi.installs import Installs
from runnerwsgi.secrets import Vault


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/runnerwsgi.db"


@pytest.fixture
def installs(tmp_path, url):
    database = Database(url)
    yield Installs(database, Vault(tmp_path / "secret.key"))
    database.close()


@pytest.fixture
def make_call():
    """A call of tenant acme's extension demo.notes, made by user u1."""

    def make(**changes):
        principal = Principal("acme", "u1", user_name="Ada", user_email="ada@example.com")
        given = {
            "tenant_id": "acme",
            "extension_id": "demo.notes",
            "install_id": "i1",
            "request_id": "r1",
            "user": principal.to_user(),
            "principal": principal,
            "timeout": 5.0,
        }
        return Call(**{**given, **changes})

    return make


@pytest.fixture
def call(make_call):
    return make_call()
