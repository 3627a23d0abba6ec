import pytest

from runnerwsgi.capabilities.user import get_user, get_user_v2
from runnerwsgi.errors import CapabilityError
from runnerwsgi.protocol import User


def test_a_guest_reads_who_calls(call):
    assert get_user(call) == {
        "tenant-id": "acme",
        "client-name": "",
        "user-id": "u1",
        "user-email": "ada@example.com",
        "user-name": "Ada",
        "user-type": "internal",
    }


def test_the_second_interface_adds_the_client_and_fields_of_the_hosts_own(make_call):
    user = User("u1", client_name="Acme", client_id="c1", additional_fields={"team": "blue"})
    record = get_user_v2(make_call(user=user))
    assert record["client-name"] == "Acme"
    assert record["client-id"] == "c1"
    assert record["additional-fields"] == [("team", "blue")]


@pytest.mark.parametrize("function", [get_user, get_user_v2])
def test_an_anonymous_caller_is_not_available(make_call, function):
    with pytest.raises(CapabilityError) as refused:
        function(make_call(user=None))
    assert refused.value.case == "not-available"
