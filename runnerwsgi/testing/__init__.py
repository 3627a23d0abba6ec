"""The contract kit for authors of backends; needs pytest."""

from .contract import BackendContract

__all__ = ["BackendContract"]
