"""From a profile's rules to Cedar text: what an auditor reads is what decides.

Pure: no engine here. Each rule becomes one policy with its id; a rule that asks becomes an `@escalate` forbid, so that
no permit can beat it. Globs are compiled to Cedar's `like`, whose star also crosses slashes; a pattern for which that
would match more than was written is refused in an allow rule (`PolicyError`) and errs towards asking elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

from ringfence_tools.builtin.kubernetes_words import access
from ringfence_tools.calls import Family
from ringfence_tools.errors import PolicyError
from ringfence_tools.profile_model import ClusterRights, Profile, Rule

SCHEMA = """\
entity Agent;
entity Place;
action "shell" appliesTo { principal: [Agent], resource: [Place], context: {
  tool: String, program: String, words: String, is_whole: Bool, is_parsed: Bool, is_static: Bool, assigns: Bool,
  wraps: Bool } };
action "files" appliesTo { principal: [Agent], resource: [Place], context: {
  tool: String, path: String, name: String, depth: Long, write: Bool, outside: Bool } };
action "network" appliesTo { principal: [Agent], resource: [Place], context: {
  tool: String, host: String, port: Long, method: String, path: String, url: String, sends: Bool } };
action "deliver" appliesTo { principal: [Agent], resource: [Place], context: {
  tool: String, path: String, name: String, depth: Long } };
action "cluster" appliesTo { principal: [Agent], resource: [Place], context: { tool: String, resource: String } };
action "tool" appliesTo { principal: [Agent], resource: [Place], context: { tool: String } };
"""

DEFAULT_TTL_S = 4 * 3600
WORKSPACE_PREFIX = "/workspace/"
MAX_DOUBLE_STARS = 4


def compile_rules(profile: Profile) -> str:
    """Cedar text of all rules, in profile order. Raises `PolicyError` for what cannot be said exactly."""
    policies: list[str] = []
    if profile.network.allow:
        policies.append(_policy({"id": "network.allow"}, "permit", Family.NETWORK, _any(_hosts(profile.network.allow))))
    if profile.tools.kubernetes:
        policies.append(
            _policy({"id": "tools.kubernetes"}, "permit", Family.CLUSTER, _any(_rights(profile.tools.kubernetes)))
        )
    for rule in profile.rules:
        for family in rule.families:
            policies.extend(_rule(profile, rule, family))
    if any(rule.commands for rule in profile.rules):
        readable = {"id": "shell.parts", "say": "The parts of the command decide."}
        policies.append(
            _policy(readable, "permit", Family.SHELL, "context.is_whole && context.is_parsed || context.wraps")
        )
        unreadable = {"id": "shell.unreadable", **default_terms(profile)}
        policies.append(_policy(unreadable, "forbid", Family.SHELL, "context.is_whole && !context.is_parsed"))
    return "\n".join(policies)


def default_terms(profile: Profile) -> dict[str, str]:
    """Whom to ask where no rule says it: the profile's owner."""
    return {"escalate": profile.metadata.owner, "ttl": str(DEFAULT_TTL_S), "widest": "task"} | _four_eyes(
        profile.four_eyes
    )


def rule_of(policy_id: str) -> str:
    """The rule's id, for a policy id: `upload` for `upload#network` and `upload?` (unreadable part)."""
    return policy_id.partition("#")[0].removesuffix("?")


def _rule(profile: Profile, rule: Rule, family: Family) -> Iterable[str]:
    suffix = f"#{family.value}" if len(rule.families) > 1 else ""
    terms = _terms(profile, rule)
    say = {"say": rule.say} if rule.say else {}
    condition = _condition(profile, rule, family)
    effect = "permit" if rule.effect == "allow" else "forbid"
    yield _policy({"id": rule.id + suffix, **terms, **say}, effect, family, condition)
    if rule.commands and effect == "forbid":
        # What cannot be read might be what the rule is about: ask, by the rule's own terms where it has some.
        unreadable = "!context.is_whole && !context.is_static && " + _any(_programs(rule.commands))
        yield _policy({"id": f"{rule.id}?", **(terms or default_terms(profile))}, "forbid", family, unreadable)


def _terms(profile: Profile, rule: Rule) -> dict[str, str]:
    if rule.who is None:
        return {}
    four_eyes = profile.four_eyes or bool(rule.four_eyes)
    terms = {"escalate": ",".join(rule.who.any)}
    if rule.who.all:
        terms["all"] = ",".join(rule.who.all)
    terms["ttl"] = str(rule.expires or DEFAULT_TTL_S)
    terms["widest"] = rule.widest_grant or "task"
    return terms | _four_eyes(four_eyes)


def _four_eyes(is_asked: bool) -> dict[str, str]:
    return {"four_eyes": "true"} if is_asked else {}


def _condition(profile: Profile, rule: Rule, family: Family) -> str:
    is_allow = rule.effect == "allow"
    parts: list[str] = []
    if rule.hosts:
        parts.append(_any(_hosts(rule.hosts)))
    if rule.methods:
        parts.append(f"[{', '.join(map(quote, rule.methods))}].contains(context.method)")
    if rule.paths:
        parts.append(_any(_path(pattern, rule, family) for pattern in rule.paths))
    if rule.commands:
        parts.append("!context.is_whole && " + _any(_command(pattern) for pattern in rule.commands))
        if is_allow:
            parts.append('!context.assigns && context.program != ""')
    if rule.tools:
        parts.append(_any(_like("context.tool", pattern) for pattern in rule.tools))
    if rule.resources:
        parts.append(_any(_like("context.resource", pattern) for pattern in rule.resources))
    parts.extend(
        f"context.{name} == {str(value).lower()}"
        for name, value in (("sends", rule.sends), ("write", rule.write))
        if value is not None
    )
    if is_allow and family is Family.FILES and not rule.paths:
        parts.append("!context.outside")
    if rule.effect == "ask" and family is Family.NETWORK and rule.is_bare and profile.network.allow:
        # Asking about the network without a condition means: about what network.allow does not list.
        parts.append(f"!{_any(_hosts(profile.network.allow))}")
    if rule.effect == "ask" and family is Family.CLUSTER and rule.is_bare and profile.tools.kubernetes:
        parts.append(f"!{_any(_rights(profile.tools.kubernetes))}")
    return " && ".join(parts)


def _rights(given: Iterable[ClusterRights]) -> Iterable[str]:
    for rights in given:
        for resource, verb in product(rights.resources, rights.verbs):
            yield _like("context.resource", access(verb, resource).resource)


def _policy(annotations: Mapping[str, str], effect: str, family: Family, condition: str) -> str:
    marks = " ".join(f"@{name}({quote(value)})" for name, value in annotations.items())
    when = f"\nwhen {{ {condition} }}" if condition else ""
    return f'{marks}\n{effect}(principal, action == Action::"{family.value}", resource){when};'


def _any(alternatives: Iterable[str]) -> str:
    return "(" + " || ".join(dict.fromkeys(alternatives)) + ")"


def _hosts(patterns: Iterable[str]) -> Iterable[str]:
    for pattern in patterns:
        name, port = pattern, ""
        if not pattern.endswith("]") and ":" in pattern:
            name, _, port = pattern.rpartition(":")
        name = name.removeprefix("[").removesuffix("]")
        at_port = f" && context.port == {port}" if port else ""
        match = "true" if name == "*" else _like("context.host", name)
        yield f"({match}{at_port})"


def _command(pattern: str) -> str:
    """The pattern, or the pattern followed by further words."""
    if pattern.endswith("*"):
        return _like("context.words", pattern)
    return f"({_like('context.words', pattern)} || {_like('context.words', pattern + ' *')})"


def _programs(patterns: Iterable[str]) -> Iterable[str]:
    yield 'context.program == ""'
    for pattern in patterns:
        yield _like("context.program", pattern.split(" ", 1)[0])


def _path(pattern: str, rule: Rule, family: Family) -> str:
    is_allow = rule.effect == "allow"
    if family is Family.DELIVER and pattern.startswith("/"):
        raise PolicyError(f"rule {rule.id}: {pattern}: paths of a patch are relative; drop the leading slash")
    if family is Family.NETWORK:
        return _url_path(pattern, rule)
    inside = pattern.removeprefix(WORKSPACE_PREFIX)
    # A relative allow is about the workspace; a relative forbid or ask is about such a path anywhere.
    guard = "!context.outside && " if is_allow and family is Family.FILES and not inside.startswith("/") else ""
    match, is_exact = _glob(inside)
    if is_allow and not is_exact:
        raise PolicyError(
            f"rule {rule.id}: {pattern}: an allow rule cannot mix * with ** or further folders here; "
            "write the folder out, or use dir/**"
        )
    return f"({guard}{match})"


def _url_path(pattern: str, rule: Rule) -> str:
    """A URL's path, which has no folders that a star could be kept from crossing: only a closing `/**` is exact."""
    if not pattern.startswith("/"):
        raise PolicyError(f"rule {rule.id}: {pattern}: paths of a URL begin with a slash")
    whole, stem = pattern.removesuffix("/**"), pattern.endswith("/**")
    if rule.effect == "allow" and "*" in whole:
        raise PolicyError(f"rule {rule.id}: {pattern}: an allow rule names a path, or all below one with /**")
    match = _like("context.path", whole.replace("**", "*")) if whole else "true"
    below = _like("context.path", f"{whole.replace('**', '*')}/*")
    return f"({match} || {below})" if stem else f"({match})"


def _glob(pattern: str) -> tuple[str, bool]:
    """A condition on `context.path`, and whether it matches exactly what the glob means."""
    root = "/" if pattern.startswith("/") else ""
    parts = pattern.removeprefix("/").split("/")
    doubles = parts.count("**")
    starred = [part for part in parts if "*" in part and part != "**"]
    if doubles == 0:
        depth = f" && context.depth == {len(parts)}" if starred else ""
        # With as many slashes in the path as in the pattern, no star is left to cross one.
        return f"({_like('context.path', pattern)}{depth})", True
    if doubles > MAX_DOUBLE_STARS:
        raise PolicyError(f"{pattern}: at most {MAX_DOUBLE_STARS} ** in one pattern")
    if len(parts) == 2 and parts[0] == "**" and not root:
        return f"({_like('context.name', parts[1])})" if doubles == 1 else "true", True
    if len(parts) == 2 and parts[1] == "**" and starred:
        below = _like("context.path", f"{root}{parts[0]}/*")
        return f"({_like('context.path', root + parts[0])} && context.depth == 1 || {below})", True
    choices: list[tuple[str, ...]] = [("", "*") if part == "**" else (part,) for part in parts]
    forms = (root + "/".join(part for part in form if part) for form in product(*choices))
    return _any(_like("context.path", form) for form in forms if form != root), not starred


def _like(subject: str, pattern: str) -> str:
    """`subject` matches `pattern`, in which only `*` is special."""
    if pattern == "*":
        return "true"
    if "*" not in pattern:
        return f"{subject} == {quote(pattern)}"
    return f"{subject} like {quote(pattern)}"


def quote(text: str) -> str:
    """A Cedar string literal; everything but plain ASCII is escaped."""

    def escape(letter: str) -> str:
        if letter in '"\\':
            return f"\\{letter}"
        return letter if " " <= letter <= "~" else f"\\u{{{ord(letter):x}}}"

    return '"' + "".join(map(escape, text)) + '"'
