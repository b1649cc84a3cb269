"""What can go wrong in the audit room.

AuditError
├── LogUnavailable    the entry could not be made durable: nothing may run; retry when storage is back
│   └── CommitUnknown the commit was cut off and storage is gone, so nobody can say yet: nothing may run; look before
│                     trying again
├── InvalidEvent      the event is outside the canonical form (floats, huge integers, non-ASCII keys): fix the caller
├── Held              a legal hold came between: nothing was dropped; ask what is held, or try again
├── EntryNotFound     no such entry: ask for another
└── InvalidExport     an export, proof or note is malformed: treat it as failed evidence
"""

from __future__ import annotations


class AuditError(Exception):
    """Base of every error that this room raises."""


class LogUnavailable(AuditError):
    """The entry could not be made durable. Whatever it announced must not happen."""


class CommitUnknown(LogUnavailable):
    """Storage failed during the commit and did not come back: the transaction may be found done later."""


class InvalidEvent(AuditError):
    """The event cannot be put in canonical form."""


class Held(AuditError):
    """A legal hold keeps what was to be dropped."""


class EntryNotFound(AuditError):
    """No entry has this index or call."""


class InvalidExport(AuditError):
    """An export, proof or signed note is malformed; it proves nothing."""
