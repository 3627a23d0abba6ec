"""Who calls, as guests read it: the interfaces ``user`` and ``user-v2``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runnerwsgi.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from . import Call, Functions


def get_user(call: Call) -> Mapping[str, Any]:
    """``user.get-user``: the record ``user-data``.

    Raises:
        CapabilityError: ``not-available`` for an anonymous caller.
    """
    user = call.user
    if user is None:
        raise CapabilityError("not-available", "the caller is anonymous")
    return {
        "tenant-id": call.tenant_id,
        "client-name": user.client_name or "",
        "user-id": user.user_id,
        "user-email": user.user_email,
        "user-name": user.user_name,
        "user-type": user.user_type,
    }


def get_user_v2(call: Call) -> Mapping[str, Any]:
    """``user-v2.get-user``: the record ``user-data-v2``, with what the host adds of its own.

    Raises:
        CapabilityError: ``not-available`` for an anonymous caller.
    """
    record = get_user(call)
    assert call.user is not None
    return {
        **record,
        "client-id": call.user.client_id,
        "additional-fields": list(call.user.additional_fields.items()),
    }


FUNCTIONS: Functions = {"user": {"get-user": get_user}, "user-v2": {"get-user": get_user_v2}}
