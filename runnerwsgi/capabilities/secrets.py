"""An install's secrets, one at a time: the interface ``secrets``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runnerwsgi.errors import CapabilityError

if TYPE_CHECKING:
    from runnerwsgi.installs import Installs

    from . import Call, Functions


class InstallSecrets:
    """Reads what `runnerwsgi install --secret` stored; decrypted for the one call that asks.

    Example::

        InstallSecrets(installs).get(call, "api-key")
    """

    def __init__(self, installs: Installs) -> None:
        self._installs = installs

    def get(self, call: Call, key: str) -> str:
        """``secrets.get``.

        Raises:
            CapabilityError: ``missing`` when the install has no secret of this name.
        """
        value = self._installs.secret(call.install_id, key) if call.install_id else None
        if value is None:
            raise CapabilityError("missing", f"the install has no secret {key[:64]!r}")
        return value

    def list_keys(self, call: Call) -> list[str]:
        """``secrets.list-keys``: the names, sorted."""
        return list(self._installs.secret_keys(call.install_id)) if call.install_id else []

    def functions(self) -> Functions:
        """The host functions by their WIT names."""
        return {"secrets": {"get": self.get, "list-keys": self.list_keys}}
