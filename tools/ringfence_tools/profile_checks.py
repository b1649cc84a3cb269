"""A profile's own tests: each names one access in words, and the answer that its author expects.

`shell COMMAND` · `files read|write PATH` · `network METHOD URL` · `deliver PATH` · `cluster VERB
RESOURCE` · `tool NAME`.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from ringfence_tools.calls import Access, Effect, Family
from ringfence_tools.errors import ProfileInvalid
from ringfence_tools.hosts import HostInvalid, read_host, resource_of
from ringfence_tools.policy import Policy
from ringfence_tools.policy_facts import SENDING_METHODS
from ringfence_tools.profile_model import Profile
from ringfence_tools.shell_reading import accesses_of_shell

EFFECT_WORDS = {Effect.ALLOW: "allow", Effect.ESCALATE: "ask", Effect.FORBID: "forbid"}
"""Effects as profiles write them."""


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """`expected` and `actual` are allow, ask or forbid."""

    __test__ = False

    call: str
    expected: str
    actual: str
    reason: str

    @property
    def is_passed(self) -> bool:
        return self.expected == self.actual


def profile_tests(profile: Profile) -> list[TestOutcome]:
    """Run every test of the profile. Raises `ProfileInvalid` for one that cannot be read."""
    policy = Policy.compile(profile)
    outcomes = []
    for test in profile.tests:
        decided = policy.decide(test.call.split(" ", 1)[0], accesses_of_words(profile.title, test.call))
        outcomes.append(TestOutcome(test.call, test.expect, EFFECT_WORDS[decided.effect], decided.reason))
    return outcomes


def accesses_of_words(profile: str, call: str) -> tuple[Access, ...]:
    """The accesses that a test's words stand for. Raises `ProfileInvalid`."""
    family, _, rest = call.partition(" ")
    first, _, second = rest.partition(" ")
    match family:
        case "shell" if rest:
            return accesses_of_shell(rest)
        case "files" if first in ("read", "write") and second:
            outside = not second.startswith("/workspace")
            return (Access(Family.FILES, second, {"write": first == "write", "outside": outside}),)
        case "network" if second:
            return (_network(profile, call, first, second),)
        case "deliver" if rest:
            return (Access(Family.DELIVER, rest),)
        case "cluster" if rest:
            return (Access(Family.CLUSTER, rest),)
        case "tool" if rest:
            return (Access(Family.TOOL, rest),)
    raise ProfileInvalid(
        profile, [f"test {call!r} cannot be read; write it as `shell …`, `files read PATH`, `network GET URL` or so"]
    )


def _network(profile: str, call: str, method: str, url: str) -> Access:
    try:
        parts = urlsplit(url)
        host = read_host(parts.hostname or "").ascii
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except (ValueError, HostInvalid) as error:
        raise ProfileInvalid(profile, [f"test {call!r} names no URL: {error}"]) from error
    sends = method in SENDING_METHODS
    return Access(Family.NETWORK, resource_of(host, port), {"method": method, "url": url, "sends": sends})
