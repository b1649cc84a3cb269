"""What can go wrong in the agents room, split by what the caller can do.

AgentsError
├── RunNotFound        no such run: ask for another
├── RunHeld            another worker holds the run: leave it alone, or try when its lease has ended
├── RunEnded           the run is over: open a new one
├── StepNotKept        nothing can begin at this step: choose one that the message names
├── RunStopping        a person told the run to stop: begin nothing, let go of it
├── SandboxRefused     no sandbox can be had for this run, or too many were lost: stop, show it to a person
├── ModelError
│   ├── ModelUnavailable  retries are used up: park the run, try later
│   ├── ModelRefused      key, name or request is wrong: stop, show `fix` to a person
│   ├── ContextTooLong    the request does not fit: compact harder and ask again
│   └── ReplayDiverged    the real results differ from the transcript: stop, show both
└── TranscriptInvalid  the replay's file is malformed: its author must mend it
"""

from __future__ import annotations


class AgentsError(Exception):
    """Base of every error that this room raises."""


class RunNotFound(AgentsError):
    """No run has this id."""


class RunHeld(AgentsError):
    """Another worker holds the run's lease, or the run waits on purpose."""


class RunEnded(AgentsError):
    """The run has reached its end; nothing moves it any more."""


class StepNotKept(AgentsError):
    """The run has no such step, or what its workspace held then was not kept."""


class RunStopping(AgentsError):
    """A person told the run to stop or pause: nothing new may begin. `request` is theirs, as the tables hold it."""

    def __init__(self, run: str, *, request: str, by: str, reason: str) -> None:
        super().__init__(f"run {run} was told to {request} by {by}: {reason}")
        self.request = request
        self.by = by
        self.reason = reason


class SandboxRefused(AgentsError):
    """This machine cannot fence the run, its repository cannot be brought in, or it lost too many sandboxes."""


class ModelError(AgentsError):
    """Base of what a model client raises. Messages never hold a key."""


class ModelUnavailable(ModelError):
    """The endpoint did not answer properly, however often it was asked. `retry_after_s` is its own wish, or 0."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelRefused(ModelError):
    """Asking again cannot help. `fix` says what a person can do."""

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(f"{message}. {fix}")
        self.fix = fix


class ContextTooLong(ModelError):
    """The endpoint says that the request does not fit into its window."""


class ReplayDiverged(ModelError):
    """A replayed model met results that its transcript does not expect."""


class TranscriptInvalid(AgentsError):
    """A transcript cannot be read; the message names the line."""
