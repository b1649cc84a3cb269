"""What a profile says, in plain words. What two of them say differently is in `profile_changes`. Pure."""

from __future__ import annotations

from functools import partial

from ringfence_tools.profile_model import Profile, Rule
from ringfence_tools.profile_units import duration_text, usd_text


def explain(profile: Profile) -> str:
    """A paragraph of lines: where runs execute, what they may do, who is asked, what it costs."""
    lines = [f"{profile.title}: {profile.description}", f"Runs execute in a {profile.sandbox.kind} sandbox."]
    if profile.teams:
        lines.append(f"- only for the teams {', '.join(profile.teams)}")
    if profile.repositories:
        lines.append(f"- only for the repositories {', '.join(profile.repositories)}")
    if profile.sandbox.reduced:
        lines.append("- a sandbox that lacks a layer of its fence will do")
    lines += [f"- of this machine, {mount.source} is inside as {mount.target}" for mount in profile.sandbox.mounts]
    lines += [f"- {rule_words(rule)}" for rule in profile.rules]
    for rights in profile.tools.kubernetes or ():
        lines.append(f"- on the cluster, in its own namespace: {', '.join(rights.verbs)} {', '.join(rights.resources)}")
    if profile.network.allow:
        lines.append(f"- open without asking: {', '.join(map(partial(_host, profile), profile.network.allow))}")
    if profile.network.opened:
        lines.append(f"- read by the proxy, request by request: {', '.join(profile.network.opened)}")
    if profile.network.plain:
        lines.append(f"- may be spoken to without TLS: {', '.join(profile.network.plain)}")
    for credential in profile.network.credentials:
        lines.append(f"- {credential.host} gets the header {credential.header}, added outside the sandbox")
    if profile.network.private:
        lines.append(f"- may have a private address: {', '.join(profile.network.private)}")
    if profile.cedar:
        lines.append("- and what its Cedar policies say, which are below the words")
    said = "a person is asked" if profile.unmatched == "ask" else "it is forbidden"
    lines.append(f"- where no rule speaks, {said}")
    budget = profile.budget.run
    money = f"{usd_text(budget.usd)}, " if budget.usd is not None else ""
    lines.append(f"- a run may use {money}{budget.tool_calls} tool calls and {duration_text(budget.wall)}")
    if profile.four_eyes:
        lines.append("- whoever asked for the task may not approve what its run asks for")
    return "\n".join(lines)


def _host(profile: Profile, pattern: str) -> str:
    """A host that is open, with a warning where nobody reads what goes there."""
    read = {*profile.network.opened, *(credential.host for credential in profile.network.credentials)}
    return pattern if pattern in read else f"{pattern} (unopened: may send anything to anyone there)"


def rule_words(rule: Rule) -> str:
    """One line: its id, what it is about, and what becomes of that."""
    what = ", ".join(family.value for family in rule.families)
    conditions = [
        f"{name} {', '.join(values)}"
        for name, values in (
            ("to", rule.hosts),
            ("by", rule.methods),
            ("of", rule.paths),
            ("running", rule.commands),
            ("named", rule.tools),
            ("on", rule.resources),
        )
        if values
    ]
    if rule.sends is not None:
        conditions.append("that sends something" if rule.sends else "that sends nothing")
    if rule.write is not None:
        conditions.append("that writes" if rule.write else "that only reads")
    where = f" {' '.join(conditions)}" if conditions else ""
    match rule.effect:
        case "allow":
            return f"{rule.id}: {what}{where} is allowed"
        case "forbid":
            return f"{rule.id}: {what}{where} is forbidden" + (f" ({rule.say})" if rule.say else "")
        case "ask":
            span = f", and denied after {duration_text(rule.expires)} of silence" if rule.expires else ""
            everyone = rule.who.all if rule.who else ()
            choice = " or ".join(rule.who.any) if rule.who else ""
            choice = f"one of {choice}" if everyone and " or " in choice else choice
            joined = " and ".join(part for part in (*everyone, choice) if part)
            return f"{rule.id}: {what}{where} is put to {joined or 'a person'}{span}"
