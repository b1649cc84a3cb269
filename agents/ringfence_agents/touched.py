"""What a run has touched outside its sandbox, read from the log: hosts, credentials, grants. For whoever stopped it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.query import story
from ringfence_tools import grants
from ringfence_tools.calls import RunId


@dataclass(frozen=True, slots=True)
class Touched:
    """Each in sorted order. `hosts` and `credentials` read `host:port`; a credential is named by where it was added."""

    hosts: tuple[str, ...]
    refused_hosts: tuple[str, ...]
    credentials: tuple[str, ...]
    grants: tuple[str, ...]

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "hosts": list(self.hosts),
            "refused_hosts": list(self.refused_hosts),
            "credentials": list(self.credentials),
            "grants": list(self.grants),
        }


def touched(connection: Connection, run: RunId) -> Touched:
    """Everything that the run reached, was refused and was given, up to now."""
    hosts: set[str] = set()
    refused: set[str] = set()
    credentials: set[str] = set()
    for entry in story(connection, run):
        host = f"{entry.data.get('host')}:{entry.data.get('port')}"
        if entry.kind == Kind.EGRESS_OPENED:
            hosts.add(host)
            if entry.data.get("credential"):
                credentials.add(host)
        elif entry.kind == Kind.EGRESS_REFUSED:
            refused.add(host)
    given = sorted(
        f"{grant.id}: {', '.join(f'{access.family.value} {access.resource}' for access in grant.accesses)}"
        for grant in grants.every(connection, run=run)
    )
    return Touched(tuple(sorted(hosts)), tuple(sorted(refused - hosts)), tuple(sorted(credentials)), tuple(given))
