"""The policy: allow, escalate or forbid, for one tool call.

On the path of a tool call this is *decide*. Cedar's engine is kept behind handles; the schema is always passed; a
diagnostic error, or no decision, is a forbid. Each access is decided by itself and the strictest answer holds.
Decisions are pure and take no lock: one `Policy` may serve any number of threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cedarpy

from ringfence_tools.calls import Access, Decision, Effect, Family, Terms
from ringfence_tools.errors import PolicyError
from ringfence_tools.policy_compile import SCHEMA, compile_rules, default_terms, rule_of
from ringfence_tools.policy_facts import Facts, facts_of
from ringfence_tools.policy_terms import merge_terms, read_terms
from ringfence_tools.profile_model import Profile

MAX_ACCESSES = 4096
_PRINCIPAL = {"type": "Agent", "id": "agent"}
_RESOURCE = {"type": "Place", "id": "sandbox"}

Request: TypeAlias = "dict[str, dict[str, str] | Facts]"


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The answer to one access. `policies` are ids of what matched, in profile order."""

    effect: Effect
    policies: tuple[str, ...]
    reason: str = ""


class Policy:
    """A profile, compiled. Made by `compile`; immutable."""

    def __init__(
        self, profile: Profile, policies: cedarpy.PolicySet, schema: cedarpy.Schema, *, cedar: str, version: str
    ) -> None:
        self._policies = policies
        self._schema = schema
        self._entities = cedarpy.Entities.from_json_str("[]")
        marks = _annotations(policies)
        self._order = {policy_id: place for place, policy_id in enumerate(marks)}
        self._terms = {policy_id: read_terms(policy_id, found) for policy_id, found in marks.items()}
        self._says = {policy_id: found.get("say", "") for policy_id, found in marks.items()}
        self._unmatched = Effect.ESCALATE if profile.unmatched == "ask" else Effect.FORBID
        self._default = read_terms("unmatched", default_terms(profile))
        self.profile = profile
        self.cedar = cedar
        self.version = version

    @staticmethod
    def compile(profile: Profile, *, extra_cedar: str = "") -> Policy:
        """Compile a profile and further Cedar policies. Raises `PolicyError`: then nothing may be decided."""
        cedar = "\n".join(part for part in (compile_rules(profile), profile.cedar, extra_cedar) if part.strip())
        schema = cedarpy.Schema.from_str(SCHEMA)
        policies = _named(cedar)
        checked = cedarpy.validate_policies(cedar, schema)
        if not checked.validation_passed:
            raise PolicyError("policies do not fit the schema: " + "; ".join(map(str, checked.errors[:5])))
        owner, unmatched = default_terms(profile), profile.unmatched
        hashed = "\0".join((SCHEMA, cedar, unmatched, repr(sorted(owner.items()))))
        version = hashlib.sha256(hashed.encode()).hexdigest()
        return Policy(profile, policies, schema, cedar=cedar, version=version)

    def decide(self, tool: str, accesses: tuple[Access, ...]) -> Decision:
        """The strictest answer over all accesses; a call without any is decided as the tool itself. Never raises."""
        asked = accesses or (Access(Family.TOOL, tool),)
        if len(asked) > MAX_ACCESSES:
            return self._decision(Effect.FORBID, ("error",), f"more than {MAX_ACCESSES} accesses in one call")
        verdicts = self._verdicts(tool, asked)
        effect = _strictest(verdicts)
        leading = [
            (access, verdict) for access, verdict in zip(asked, verdicts, strict=True) if verdict.effect is effect
        ]
        found = {policy_id for _, verdict in leading for policy_id in verdict.policies}
        ordered = sorted(found, key=lambda policy_id: self._order.get(policy_id, len(self._order)))
        rules = tuple(dict.fromkeys(rule_of(policy_id) for policy_id in ordered))
        access, first = leading[0]
        reason = first.reason or _reason(effect, rules, access)
        instead = next((self._says[policy_id] for policy_id in ordered if self._says.get(policy_id)), "")
        if effect is not Effect.ESCALATE:
            return self._decision(effect, rules, reason, instead=instead)
        terms = merge_terms([self._terms.get(policy_id) or self._default or Terms() for policy_id in ordered])
        escalating = tuple(access for access, _ in leading)
        return self._decision(effect, rules, reason, instead=instead, terms=terms, escalating=escalating)

    def _decision(
        self,
        effect: Effect,
        rules: tuple[str, ...],
        reason: str,
        *,
        instead: str = "",
        terms: Terms | None = None,
        escalating: tuple[Access, ...] = (),
    ) -> Decision:
        return Decision(effect, rules, self.version, reason, instead=instead, terms=terms, escalating=escalating)

    def _verdicts(self, tool: str, accesses: Sequence[Access]) -> list[_Verdict]:
        verdicts: list[_Verdict | None] = []
        requests: list[Request] = []
        for access in accesses:
            if access.family is Family.PEOPLE:
                verdicts.append(_Verdict(Effect.ALLOW, ("people",)))
                continue
            try:
                facts = facts_of(tool, access)
            except PolicyError as error:
                verdicts.append(_Verdict(Effect.FORBID, ("error",), str(error)))
                continue
            verdicts.append(None)
            action = {"type": "Action", "id": access.family.value}
            requests.append({"principal": _PRINCIPAL, "action": action, "resource": _RESOURCE, "context": facts})
        answers = iter(self._ask(requests))
        return [verdict or next(answers) for verdict in verdicts]

    def _ask(self, requests: list[Request]) -> list[_Verdict]:
        if not requests:
            return []
        try:
            answers = cedarpy.is_authorized_batch(requests, self._policies, self._entities, self._schema)
        except (ValueError, TypeError, RuntimeError) as error:
            return [_Verdict(Effect.FORBID, ("error",), f"the policy engine failed: {error}")] * len(requests)
        if len(answers) != len(requests):
            return [_Verdict(Effect.FORBID, ("error",), "the policy engine left requests unanswered")] * len(requests)
        return [self._judge(answer) for answer in answers]

    def _judge(self, answer: cedarpy.AuthzResult) -> _Verdict:
        errors = answer.diagnostics.errors
        if errors or answer.decision not in (cedarpy.Decision.Allow, cedarpy.Decision.Deny):
            said = "; ".join(errors[:3]) or "no decision"
            return _Verdict(Effect.FORBID, ("error",), f"the policy could not be evaluated: {said}"[:500])
        matched = tuple(answer.diagnostics.reasons)
        if answer.decision is cedarpy.Decision.Allow:
            return _Verdict(Effect.ALLOW, matched)
        plain = tuple(policy_id for policy_id in matched if self._terms.get(policy_id) is None)
        if plain:
            return _Verdict(Effect.FORBID, plain)
        if matched:
            return _Verdict(Effect.ESCALATE, matched)
        return _Verdict(self._unmatched, ("unmatched",))


def _named(cedar: str) -> cedarpy.PolicySet:
    """Parse, and give every policy its `@id` as its id; each has one, and no two the same."""
    try:
        nodes = cedarpy.PolicySet.from_str(cedar).to_pst()
    except ValueError as error:
        raise PolicyError(f"policies cannot be read: {error}") from error
    if nodes.templates or nodes.template_links:
        raise PolicyError("policy templates are not read; write each policy out")
    named: dict[str, cedarpy.pst.Template] = {}
    for node in nodes.static_policies.values():
        policy_id = node.annotations.get("id", "")
        if not policy_id or policy_id in named or policy_id in ("error", "unmatched", "people"):
            raise PolicyError(f"each policy needs an @id of its own; {policy_id or 'one without'} does not do")
        named[policy_id] = cedarpy.pst.Template(
            id=policy_id,
            effect=node.effect,
            principal=node.principal,
            action=node.action,
            resource=node.resource,
            clauses=node.clauses,
            annotations=node.annotations,
        )
        if node.effect == "permit" and "escalate" in node.annotations:
            raise PolicyError(f"policy {policy_id}: @escalate belongs to a forbid")
        read_terms(policy_id, node.annotations)
    try:
        return cedarpy.PolicySet.from_pst(cedarpy.pst.PolicySet(templates={}, static_policies=named, template_links=()))
    except (ValueError, TypeError) as error:
        raise PolicyError(f"policies cannot be named: {error}") from error


def _annotations(policies: cedarpy.PolicySet) -> Mapping[str, Mapping[str, str]]:
    nodes = policies.to_pst().static_policies
    return {policy_id: node.annotations for policy_id, node in nodes.items()}


def _strictest(verdicts: Sequence[_Verdict]) -> Effect:
    found = {verdict.effect for verdict in verdicts}
    for effect in (Effect.FORBID, Effect.ESCALATE):
        if effect in found:
            return effect
    return Effect.ALLOW


def _reason(effect: Effect, rules: tuple[str, ...], access: Access) -> str:
    what = f"{access.family.value} {access.resource[:200]}"
    named = " + ".join(rules) or "no rule"
    if rules == ("unmatched",):
        verb = "asks" if effect is Effect.ESCALATE else "forbids"
        return f"no rule speaks of {what}; the profile {verb} then"
    verb = {Effect.ALLOW: "allows", Effect.ESCALATE: "asks about", Effect.FORBID: "forbids"}[effect]
    return f"{named} {verb} {what}"
