"""What one profile allows that another does not, in plain words: more, less, or merely otherwise. Pure.

Two profiles are compared field by field, so that no difference is passed over: what has no words of its own here is
told as it stands. Beside that, every test of either is put to both, and a call that ends otherwise is named: that is
how they decide, whatever their rules look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias

from ringfence_tools.calls import Effect
from ringfence_tools.errors import ProfileInvalid
from ringfence_tools.policy import Policy
from ringfence_tools.profile_checks import EFFECT_WORDS, accesses_of_words
from ringfence_tools.profile_model import Form, Profile, Rule
from ringfence_tools.profile_units import duration_text, usd_text
from ringfence_tools.profile_words import rule_words

_STRICT = {Effect.ALLOW: 0, Effect.ESCALATE: 1, Effect.FORBID: 2}
_LISTS = ("families", "hosts", "methods", "paths", "commands", "tools", "resources")
_SWITCHES = ("sends", "write")
_PASSED_OVER = frozenset({"metadata.version", "extends", "tests"})
"""What says nothing about what a run may do; tests are put to both profiles instead."""
_SHOWN_CHARS = 200


class Direction(StrEnum):
    """Whether agents may now do more, less, or something merely reads otherwise."""

    MORE = "more"
    LESS = "less"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Change:
    """`text` is one line; what people wrote in a profile stands in it as it is."""

    direction: Direction
    text: str


_Teller: TypeAlias = Callable[[Profile, Profile], Iterable[Change]]


def changes(before: Profile, after: Profile) -> tuple[Change, ...]:
    """Every difference between two profiles but their version, what allows more first; none where they are alike."""
    found = [*_calls(before, after), *_walked(before, after, before, after, "")]
    order = list(Direction)
    return tuple(sorted(dict.fromkeys(found), key=lambda change: order.index(change.direction)))


def _walked(old: Form, new: Form, before: Profile, after: Profile, place: str) -> Iterator[Change]:
    """Down through the form: a field that differs has words of its own, or parts that do, or is told as it stands."""
    for name in type(new).model_fields:
        here = f"{place}.{name}" if place else name
        a, b = getattr(old, name), getattr(new, name)
        if a == b or here in _PASSED_OVER:
            continue
        if here in _TELLERS:
            yield from _TELLERS[here](before, after)
        elif isinstance(a, Form) and isinstance(b, Form):
            yield from _walked(a, b, before, after, here)
        else:
            yield Change(Direction.OTHER, f"{here}: {_plain(a)} before, {_plain(b)} now")


def _calls(before: Profile, after: Profile) -> Iterator[Change]:
    """Calls of either's tests that end otherwise."""
    policies = Policy.compile(before), Policy.compile(after)
    for call in dict.fromkeys(test.call for test in (*before.tests, *after.tests)):
        try:
            accesses = accesses_of_words(after.title, call)
        except ProfileInvalid:
            continue  # a test that cannot be read tells nothing; publishing refuses it
        old, new = (policy.decide(call.split(" ", 1)[0], accesses).effect for policy in policies)
        if old is not new:
            words = f"`{call}`: {EFFECT_WORDS[old]} before, {EFFECT_WORDS[new]} now"
            yield Change(Direction.LESS if _STRICT[new] > _STRICT[old] else Direction.MORE, words)


def _rules(before: Profile, after: Profile) -> Iterator[Change]:
    old, new = ({rule.id: rule for rule in profile.rules} for profile in (before, after))
    asks = before.unmatched == after.unmatched == "ask"
    for name in dict.fromkeys((*old, *new)):
        a, b = old.get(name), new.get(name)
        if a == b:
            continue
        if a is not None and b is not None and a.effect == b.effect:
            yield from _reworded(a, b, asks_anyway=asks)
            continue
        if a is not None:
            yield Change(_opposite(_of_rule(a, asks_anyway=asks)), f"no longer: {rule_words(a)}")
        if b is not None:
            yield Change(_of_rule(b, asks_anyway=asks), f"now: {rule_words(b)}")


def _reworded(a: Rule, b: Rule, *, asks_anyway: bool) -> Iterator[Change]:
    """One rule that decides as before, over something else or on other terms."""
    direction = _of_rule(b, asks_anyway=asks_anyway)
    text = f"now: {rule_words(b)}; before: {rule_words(a).partition(': ')[2]}"
    differing = [name for name in (*_LISTS, *_SWITCHES) if getattr(a, name) != getattr(b, name)]
    if differing and all(_is_wider(a, b, name) for name in differing):
        yield Change(direction, text)
    elif differing and all(_is_wider(b, a, name) for name in differing):
        yield Change(_opposite(direction), text)
    elif differing:
        yield Change(_opposite(direction), f"no longer: {rule_words(a)}")
        yield Change(direction, f"now: {rule_words(b)}")
    yield from _terms(a, b)


def _terms(a: Rule, b: Rule) -> Iterator[Change]:
    """Who is asked, how long, how wide, and what is said."""
    if a.who != b.who:
        yield Change(Direction.OTHER, f"other people are asked: {rule_words(b)}; before: {rule_words(a)}")
    if a.widest_grant != b.widest_grant:
        direction = Direction.LESS if b.widest_grant == "once" else Direction.MORE
        yield Change(direction, f"{b.id}: one approval opens it for {_grant(b)}, before for {_grant(a)}")
    if a.expires != b.expires:
        spans = [duration_text(rule.expires) if rule.expires else "the usual time" for rule in (a, b)]
        yield Change(Direction.OTHER, f"{b.id}: silence denies after {spans[1]}, before after {spans[0]}")
    if a.four_eyes != b.four_eyes:
        direction = Direction.LESS if b.four_eyes else Direction.MORE
        said = "may not" if b.four_eyes else "may"
        yield Change(direction, f"{b.id}: whoever asked for the task {said} approve it")
    if a.say != b.say:
        yield Change(Direction.OTHER, f"{b.id}: the agent is told {_plain(b.say)}")


def _grant(rule: Rule) -> str:
    return "one call" if rule.widest_grant == "once" else "the rest of the task"


def _is_wider(a: Rule, b: Rule, name: str) -> bool:
    """Whether `b` speaks of everything that `a` does and more, by this field alone. An absent condition is no limit."""
    old, new = getattr(a, name), getattr(b, name)
    if name in _SWITCHES:
        return new is None
    return not new or (bool(old) and set(old) < set(new))


def _of_rule(rule: Rule, *, asks_anyway: bool) -> Direction:
    """What adding the rule does. One that asks holds back what was allowed, but opens what no rule had spoken of where
    that is forbidden: then it is neither."""
    if rule.effect == "ask":
        return Direction.LESS if asks_anyway else Direction.OTHER
    return Direction.MORE if rule.effect == "allow" else Direction.LESS


def _opposite(direction: Direction) -> Direction:
    return {Direction.MORE: Direction.LESS, Direction.LESS: Direction.MORE}.get(direction, direction)


def _set(now: str, gone: str, items: Callable[[Profile], Iterable[str]]) -> _Teller:
    """A list of what is open: each that is added is more, each that is gone is less."""

    def told(before: Profile, after: Profile) -> Iterator[Change]:
        old, new = list(items(before)), list(items(after))
        yield from (Change(Direction.MORE, f"{now} {one}") for one in new if one not in old)
        yield from (Change(Direction.LESS, f"{gone} {one}") for one in old if one not in new)

    return told


def _scope(what: str, every: str, items: Callable[[Profile], Iterable[str]]) -> _Teller:
    """A list of whom the profile is for, where an empty one is everybody."""

    def told(before: Profile, after: Profile) -> Iterator[Change]:
        old, new = set(items(before)), set(items(after))
        text = f"{what}: {', '.join(sorted(new)) or every}; before {', '.join(sorted(old)) or every}"
        if not new or (old and old < new):
            yield Change(Direction.MORE, text)
        elif not old or new < old:
            yield Change(Direction.LESS, text)
        else:
            yield Change(Direction.OTHER, text)

    return told


def _cap(what: str, value: Callable[[Profile], int | None], written: Callable[[int], str]) -> _Teller:
    """A limit, where none is no limit."""

    def told(before: Profile, after: Profile) -> Iterator[Change]:
        old, new = value(before), value(after)
        texts = ["no limit" if one is None else written(one) for one in (old, new)]
        is_more = new is None or (old is not None and new > old)
        yield Change(Direction.MORE if is_more else Direction.LESS, f"{what}: {texts[1]}, before {texts[0]}")

    return told


def _switch(is_loose: Callable[[Profile], bool], loose: str, strict: str) -> _Teller:
    def told(_: Profile, after: Profile) -> Iterator[Change]:
        is_so = is_loose(after)
        yield Change(Direction.MORE if is_so else Direction.LESS, loose if is_so else strict)

    return told


def _cedar(before: Profile, after: Profile) -> Iterator[Change]:
    """Policies as text are not judged here: what they do shows in the calls, and whoever publishes reads them."""
    old, new = before.cedar.splitlines(), after.cedar.splitlines()
    yield from (Change(Direction.OTHER, f"Cedar, added: {line.strip()}") for line in new if line not in old)
    yield from (Change(Direction.OTHER, f"Cedar, removed: {line.strip()}") for line in old if line not in new)
    if sorted(old) == sorted(new):
        yield Change(Direction.OTHER, "Cedar: the same lines in another order")


def _rights(profile: Profile) -> list[str]:
    given = profile.tools.kubernetes or ()
    return [f"{verb} {resource}" for rights in given for resource in rights.resources for verb in rights.verbs]


def _cluster(before: Profile, after: Profile) -> Iterator[Change]:
    if (before.tools.kubernetes is None) is not (after.tools.kubernetes is None):
        has = after.tools.kubernetes is not None
        said = "agents get the kubernetes tools" if has else "agents have the kubernetes tools no longer"
        yield Change(Direction.MORE if has else Direction.LESS, said)
    yield from _set("on the cluster without asking:", "on the cluster no longer:", _rights)(before, after)


def _credentials(profile: Profile) -> list[str]:
    return [f"{one.host} (header {one.header}, from {one.source})" for one in profile.network.credentials]


def _mounts(profile: Profile) -> list[str]:
    return [f"{one.source} as {one.target}" for one in profile.sandbox.mounts]


def _plain(value: object) -> str:
    if isinstance(value, Form):
        value = value.model_dump(mode="json")
    if value in (None, (), "", {}):
        return "nothing"
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}… ({len(text)} characters)"


_TELLERS: Mapping[str, _Teller] = MappingProxyType(
    {
        "rules": _rules,
        "cedar": _cedar,
        "tools.kubernetes": _cluster,
        "teams": _scope("for the teams", "every team", lambda profile: profile.teams),
        "repositories": _scope("for the repositories", "any", lambda profile: profile.repositories),
        "network.allow": _set("open without asking:", "open no longer:", lambda profile: profile.network.allow),
        "network.private": _set(
            "may have a private address:", "a private address no longer:", lambda profile: profile.network.private
        ),
        "network.plain": _set("without TLS:", "without TLS no longer:", lambda profile: profile.network.plain),
        "network.credentials": _set("a credential is sent to", "no credential goes to", _credentials),
        "sandbox.mounts": _set("of this machine, inside:", "of this machine, no longer inside:", _mounts),
        "sandbox.reduced": _switch(
            lambda profile: profile.sandbox.reduced,
            "a sandbox that lacks a layer of its fence will do",
            "a sandbox that lacks a layer of its fence will not do",
        ),
        "unmatched": _switch(
            lambda profile: profile.unmatched == "ask",
            "what no rule speaks of is put to people, before forbidden",
            "what no rule speaks of is forbidden, before put to people",
        ),
        "four_eyes": _switch(
            lambda profile: not profile.four_eyes,
            "whoever asked for the task may approve what its run asks for",
            "whoever asked for the task may not approve what its run asks for",
        ),
        "after_deny.same_resource": _switch(
            lambda profile: profile.after_deny.same_resource == "ask",
            "what was denied may be asked for again",
            "what was denied is refused without asking again",
        ),
        "after_deny.end_run_at": _cap(
            "repeats of what was denied before the run ends", lambda profile: profile.after_deny.end_run_at, str
        ),
        "budget.run.usd": _cap("money for a run", lambda profile: profile.budget.run.usd, usd_text),
        "budget.run.tokens": _cap("tokens for a run", lambda profile: profile.budget.run.tokens, str),
        "budget.run.tool_calls": _cap("tool calls of a run", lambda profile: profile.budget.run.tool_calls, str),
        "budget.run.wall": _cap("time for a run", lambda profile: profile.budget.run.wall, duration_text),
    }
)
