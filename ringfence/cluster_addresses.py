"""Which address each sandbox on a cluster has now, for the egress proxy: see `egress_identity.Addresses`."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from sqlalchemy import Column, Connection, Index, Table, Text, delete, insert, select

from ringfence_agents.schema import runs
from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.kubernetes.egress_identity import EgressKey, written

if TYPE_CHECKING:  # every command imports this module, and the proxy is heavy
    from ringfence_sandbox.egress.hosts import IpAddress

NOWHERE: Final = ""

addresses = Table(
    "cluster_addresses",
    runs.metadata,
    Column("sandbox", Text, primary_key=True),
    Column("instance", Text, nullable=False),
    Column("address", Text, nullable=False),
    Index("ix_cluster_addresses_address", "instance", "address"),
)


class SqlAddresses:
    """The addresses of one installation (`instance`). Any number of processes may use it."""

    def __init__(self, store: Store, instance: str) -> None:
        self._store = store
        self._instance = instance

    async def stands(self, sandbox: SandboxId, address: str) -> None:
        values = {"sandbox": sandbox, "instance": self._instance, "address": written(address)}

        def work(tx: Transaction) -> None:
            # two pods never share an address: whoever had it before is gone, also where nobody noticed
            tx.connection.execute(
                delete(addresses).where(
                    (addresses.c.sandbox == sandbox)
                    | ((addresses.c.instance == self._instance) & (addresses.c.address == values["address"]))
                )
            )
            tx.connection.execute(insert(addresses).values(values))

        await self._store.write(work)

    async def left(self, sandbox: SandboxId) -> None:
        await self._store.write(
            lambda tx: tx.connection.execute(delete(addresses).where(addresses.c.sandbox == sandbox))
        )


class StandingIdentities:
    """A sandbox's credential, from the address that it has now: not from one that it had. See `service.Identities`."""

    def __init__(self, store: Store, key: EgressKey) -> None:
        self._store = store
        self._key = key

    async def is_theirs(self, sandbox: SandboxId, token: str, address: IpAddress) -> bool:
        standing = await self._store.read(lambda connection: _address_of(connection, sandbox))
        is_there = hmac.compare_digest(standing, written(str(address)))
        return await self._key.is_theirs(sandbox, token, address) and is_there


def _address_of(connection: Connection, sandbox: SandboxId) -> str:
    found = connection.execute(select(addresses.c.address).where(addresses.c.sandbox == sandbox)).scalar()
    return NOWHERE if found is None else str(found)
