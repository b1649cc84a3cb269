"""The action digest: what an approval is bound to.

SHA-256 over the canonical JSON (RFC 8785) of agent, on-behalf-of, tool, tool schema hash, arguments, resources and a
random nonce (without it the digest would be an oracle for short secrets among the arguments). Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import rfc8785

from ringfence_audit.canonical import Survey, encode
from ringfence_audit.errors import InvalidEvent
from ringfence_audit.events import JsonValue
from ringfence_tools.calls import Access


def access_json(access: Access) -> dict[str, JsonValue]:
    """An access as plain JSON, the form that digest, log and tables share."""
    attributes: dict[str, JsonValue] = dict(access.attributes)
    return {"family": access.family.value, "resource": access.resource, "attributes": attributes}


def action_digest(
    *,
    agent: str,
    on_behalf_of: str,
    tool: str,
    schema_digest: str,
    arguments: Mapping[str, JsonValue],
    accesses: Sequence[Access],
    sealed: Mapping[str, str],
    nonce: str,
) -> str:
    """64 hex characters. `sealed` maps each file that the call may execute to its SHA-256."""
    resources = [access_json(access) for access in accesses]
    files = [{"path": path, "sha256": sha256} for path, sha256 in sorted(sealed.items())]
    return hashlib.sha256(
        _canonical(
            {
                "agent": agent,
                "on_behalf_of": on_behalf_of,
                "tool": tool,
                "tool_schema": schema_digest,
                "arguments": dict(arguments),
                "resources": [*resources, *files],
                "nonce": nonce,
            }
        )
    ).hexdigest()


def _canonical(value: JsonValue) -> bytes:
    """RFC 8785 bytes: by the audit room's fast way where that is exact, else (floats, strange keys) by the slow one."""
    survey = Survey()
    try:
        survey.walk(value)
        if survey.plain:
            return encode(value)
    except InvalidEvent:
        survey.plain = False
    return rfc8785.dumps(value)


def recomputed(agent: str, on_behalf_of: str, data: Mapping[str, JsonValue]) -> str:
    """The digest that an intent's data, as it was before redaction, leads to; nothing where it lacks a part."""
    sealed, accesses = data.get("sealed"), data.get("accesses")
    texts = [data.get(name) for name in ("tool", "schema", "nonce")]
    if not isinstance(sealed, Mapping) or not isinstance(accesses, Sequence) or not all(texts):
        return ""
    files: list[JsonValue] = [{"path": path, "sha256": sealed[path]} for path in sorted(sealed)]
    body: dict[str, JsonValue] = {
        "agent": agent,
        "on_behalf_of": on_behalf_of,
        "tool": texts[0],
        "tool_schema": texts[1],
        "arguments": data.get("arguments"),
        "resources": [*accesses, *files],
        "nonce": texts[2],
    }
    # rfc8785 knows dicts and lists; what comes from an entry is made of these.
    return hashlib.sha256(rfc8785.dumps(body)).hexdigest()


def call_nonce(nonce: str) -> str:
    """The nonce that may be seen inside the sandbox, as part of the call id; the digest's nonce may not."""
    return hashlib.sha256(b"call-id\0" + nonce.encode()).hexdigest()[:24]


def matter(tool: str, accesses: Sequence[Access]) -> str:
    """What an escalation is about, whoever asks and when: identical open requests share one card."""
    rows = sorted(rfc8785.dumps(access_json(access)).decode() for access in accesses)
    return hashlib.sha256(rfc8785.dumps({"tool": tool, "accesses": rows})).hexdigest()
