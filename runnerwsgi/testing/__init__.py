"""The contract kit for authors of backends; needs pytest."""

from .contract import BackendContract
from .remote import RemoteBackendContract

__all__ = ["BackendContract", "RemoteBackendContract"]
