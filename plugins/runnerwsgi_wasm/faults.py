"""What ends a call before its guest has answered, by whose fault.

::

    Fault
    ├── GuestFault          the guest's: outcome ``guest_trap``
    │   ├── Unprovided      it called an import that nobody provides to it
    │   ├── Exited          it ended itself instead of answering
    │   └── BadAnswer       it answered something that is no HTTP answer
    ├── OutOfTime           its time ended while it waited for the host: ``timeout``
    └── NotRunnable         it was never started: ``refused``
        └── CompileError    it cannot be compiled, or not within the limits

Their messages are for the log. No guest and no client ever sees them.
"""

from __future__ import annotations


class Fault(Exception):
    """A call that ends without an answer."""


class GuestFault(Fault):
    """The guest did something that ends it."""


class Unprovided(GuestFault):
    """The guest called an import that nobody provides to it; the message names the capability."""


class Exited(GuestFault):
    """The guest ended itself through ``wasi:cli/exit``."""


class BadAnswer(GuestFault):
    """The guest's answer has a bad status or header, or is too large."""


class OutOfTime(Fault):
    """The call's time is used up while its guest waits for the host."""


class NotRunnable(Fault):
    """The component cannot be run at all: no handler, other types, an import of a module."""


class CompileError(NotRunnable):
    """The component cannot be compiled, or not within the limits of time and memory."""
