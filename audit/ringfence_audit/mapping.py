"""The names that others use for what an entry says: OCSF 1.9 events and OpenTelemetry attributes. Pure, one module.

OCSF: class API Activity (6003) with the profiles `ai_operation` and `record_integrity` (schema.ocsf.io, 1.9.0).
`raw_data` is the entry's exact text; `attestation.fingerprint` is its RFC 6962 leaf hash, SHA-256(0x00 ‖ raw_data),
and `prev_event` names the one before it in its run. OpenTelemetry: the GenAI semantic conventions (`gen_ai.*`), and
`ringfence.*` for what these have no word for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import Entry, is_refused
from ringfence_audit.merkle import leaf_hash

OCSF_VERSION = "1.9.0"
_CLASS, _CATEGORY = 6003, 6
_CREATE, _READ, _UPDATE, _DELETE, _OTHER = 1, 2, 3, 4, 99
_ACTIVITIES: Mapping[str, int] = {
    Kind.RUN_OPENED: _CREATE,
    Kind.ESCALATION: _CREATE,
    Kind.GRANT_GIVEN: _CREATE,
    Kind.PROFILE: _CREATE,
    Kind.EXCHANGE: _READ,
    Kind.QUERY: _READ,
    Kind.EXPORT: _READ,
    Kind.EGRESS_OPENED: _READ,
    Kind.GRANT_USED: _READ,
    Kind.RUN_STATE: _UPDATE,
    Kind.RUN_CLOSED: _UPDATE,
    Kind.VOTE: _UPDATE,
    Kind.SETTLED: _UPDATE,
    Kind.CONTROL: _UPDATE,
    Kind.DELIVERY: _UPDATE,
    Kind.KEY: _UPDATE,
    Kind.GRANT_REVOKED: _DELETE,
    Kind.PRUNE: _DELETE,
    Kind.ERASURE: _DELETE,
}
_NAMES = {_CREATE: "Create", _READ: "Read", _UPDATE: "Update", _DELETE: "Delete", _OTHER: "Other"}
_UNKNOWN, _SUCCESS, _FAILURE = 0, 1, 2
_STATUS = {_UNKNOWN: "Unknown", _SUCCESS: "Success", _FAILURE: "Failure"}
_INFORMATIONAL, _LOW, _MEDIUM = 1, 2, 3
_SHA256 = 3
_NATIVE = 1


def to_ocsf(entry: Entry, raw: bytes, *, origin: str) -> dict[str, JsonValue]:
    """The entry as an OCSF event. `raw` are its exact bytes, `origin` the log's name."""
    activity = _ACTIVITIES.get(entry.kind, _OTHER)
    status = _status(entry)
    time_ms = int(entry.time.timestamp() * 1000)
    event: dict[str, JsonValue] = {
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "Ringfence", "vendor_name": "Ringfence"},
            "profiles": ["ai_operation", "record_integrity"],
            "uid": f"{origin}/{entry.position}",
            "event_code": entry.kind,
            "log_name": origin,
            "sequence": entry.position,
            "correlation_uid": entry.run,
        },
        "time": time_ms,
        "category_uid": _CATEGORY,
        "category_name": "Application Activity",
        "class_uid": _CLASS,
        "class_name": "API Activity",
        "activity_id": activity,
        "activity_name": _NAMES[activity],
        "type_uid": _CLASS * 100 + activity,
        "severity_id": _severity(entry),
        "status_id": status,
        "status": _STATUS[status],
        "actor": _actor(entry),
        "api": {"operation": _text(entry.data.get("tool")) or entry.kind, "service": {"name": "ringfence"}},
        "src_endpoint": {"name": _text(entry.data.get("sandbox")) or entry.run},
        "attestation": _attestation(entry, raw, origin),
        "raw_data": raw.decode(errors="replace"),
        "unmapped": dict(entry.data),
    }
    return {**event, **_ai(entry), **_touched(entry)}


def _actor(entry: Entry) -> dict[str, JsonValue]:
    """The person on whose behalf it was done, or whoever did it."""
    person = entry.on_behalf_of or entry.actor
    return {"user": {"uid": person, "name": person.partition(":")[2] or person}}


def _ai(entry: Entry) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    model = _text(entry.data.get("model"))
    if model:
        found["ai_model"] = {"model_name": model, "ai_provider": "openai-compatible"}
    if entry.actor.startswith("agent:"):
        agent: dict[str, JsonValue] = {"uid": entry.actor, "instance_uid": entry.run, "type_id": _NATIVE}
        found["ai_agent"] = {**agent, "ai_model": found["ai_model"]} if model else agent
    grants = _list(entry.data.get("grants")) or ([entry.data["grant"]] if _text(entry.data.get("grant")) else [])
    if grants:
        found["delegation"] = {"uid": _text(grants[0]), "issuer_uid": "ringfence"}
    reason = _text(entry.data.get("finish_reason"))
    return {**found, "stop_reason": reason} if reason else found


def _touched(entry: Entry) -> dict[str, JsonValue]:
    host, port = _text(entry.data.get("host")), entry.data.get("port")
    found: dict[str, JsonValue] = {}
    if host:
        found["dst_endpoint"] = {"hostname": host, **({"port": port} if isinstance(port, int) else {})}
    accesses = [item for item in _list(entry.data.get("accesses")) if isinstance(item, Mapping)]
    if accesses:
        found["resources"] = [{"type": item.get("family"), "name": item.get("resource")} for item in accesses]
    return found


def _attestation(entry: Entry, raw: bytes, origin: str) -> dict[str, JsonValue]:
    attestation: dict[str, JsonValue] = {
        "uid": f"{origin}/{entry.position}",
        "authority_uid": origin,
        "chain_uid": entry.run,
        "fingerprint": _fingerprint(leaf_hash(raw).hex()),
    }
    if entry.previous is not None:
        attestation["prev_event"] = {"fingerprint": _fingerprint(entry.previous)}
    return attestation


def _fingerprint(value: str) -> dict[str, JsonValue]:
    return {"algorithm_id": _SHA256, "algorithm": "SHA-256", "value": value}


def _status(entry: Entry) -> int:
    word = _text(entry.data.get("status")) or _text(entry.data.get("state"))
    if is_refused(entry) or word in ("failed", "invalid", "unknown", "timeout", "gone"):
        return _FAILURE
    return _SUCCESS if word in ("ok", "approved", "finished", "consumed") else _UNKNOWN


def _severity(entry: Entry) -> int:
    if entry.kind in (Kind.GAP, Kind.KEY, Kind.ERASURE):
        return _MEDIUM
    return _LOW if is_refused(entry) else _INFORMATIONAL


_OPERATIONS: Mapping[str, str] = {
    Kind.EXCHANGE: "chat",
    Kind.INTENT: "execute_tool",
    Kind.DECISION: "execute_tool",
    Kind.OUTCOME: "execute_tool",
    Kind.RUN_OPENED: "create_agent",
    Kind.RUN_CLOSED: "invoke_agent",
}


def to_attributes(entry: Entry) -> dict[str, str | int | bool]:
    """The entry as OpenTelemetry attributes, for a log record whose body is the entry's exact text."""
    usage = entry.data.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    data = entry.data
    named: dict[str, JsonValue] = {
        "gen_ai.operation.name": _OPERATIONS.get(entry.kind),
        "gen_ai.conversation.id": entry.run,
        "gen_ai.agent.id": entry.actor if entry.actor.startswith("agent:") else None,
        "gen_ai.tool.name": data.get("tool"),
        "gen_ai.tool.call.id": entry.call or None,
        "gen_ai.request.model": data.get("model"),
        "gen_ai.response.model": data.get("answered_by"),
        "gen_ai.usage.input_tokens": counts.get("input"),
        "gen_ai.usage.output_tokens": counts.get("output"),
        "enduser.id": entry.on_behalf_of or None,
        "server.address": data.get("host"),
        "server.port": data.get("port"),
        "error.type": data.get("status") if _status(entry) == _FAILURE else None,
        "ringfence.kind": entry.kind,
        "ringfence.position": entry.position,
        "ringfence.actor": entry.actor,
        "ringfence.n": entry.n,
        "ringfence.digest": data.get("digest"),
        "ringfence.refused": is_refused(entry),
    }
    return {name: value for name, value in named.items() if isinstance(value, (str, int))}


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""


def _list(value: JsonValue) -> Sequence[JsonValue]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()
