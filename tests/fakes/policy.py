"""A decider for tests of the gate: answers by family or resource, counts what it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ringfence_tools.calls import Access, Decision, Effect, Terms

STRICTNESS = (Effect.ALLOW, Effect.ESCALATE, Effect.FORBID)


@dataclass
class FakePolicy:
    """Allows all but the resources named in `effects`."""

    effects: Mapping[str, Effect] = field(default_factory=dict)
    terms: Terms = field(default_factory=lambda: Terms(any_of=("owner",)))
    version: str = "policy-1"
    asked: list[tuple[str, tuple[Access, ...]]] = field(default_factory=list)

    def decide(self, tool: str, accesses: tuple[Access, ...]) -> Decision:
        self.asked.append((tool, accesses))
        answers = [self.effects.get(access.resource, Effect.ALLOW) for access in accesses]
        effect = max(answers, key=STRICTNESS.index, default=Effect.ALLOW)
        asked = zip(accesses, answers, strict=True)
        escalating = tuple(access for access, answer in asked if answer is Effect.ESCALATE)
        return Decision(
            effect,
            rules=("fake",),
            policy_version=self.version,
            reason="because the test says so",
            instead="go another way",
            terms=self.terms if effect is Effect.ESCALATE else None,
            escalating=escalating if effect is Effect.ESCALATE else (),
        )
