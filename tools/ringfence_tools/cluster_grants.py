"""What grants open on a cluster: Role rules that stand while a call acts, or until a task's grant expires.

Part of the gate. The database says which grants live; the cluster is made to agree before a call acts and after it. A
worker that is killed between leaves Roles with an expiry, which the next call or the sweeper takes away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import Sandbox
from ringfence_sandbox.kubernetes.agent_port import Held, NotPermitted, OnCluster
from ringfence_tools import grants
from ringfence_tools.builtin.kubernetes_words import rights_of
from ringfence_tools.calls import Access, CallKey, Family, RunId
from ringfence_tools.clock import micros
from ringfence_tools.toolbox import ToolRefusal


@asynccontextmanager
async def standing(store: Store, sandbox: Sandbox, key: CallKey, accesses: tuple[Access, ...]) -> AsyncIterator[None]:
    """While inside, all that live grants open stands on the cluster; afterwards what was this call's alone is gone.

    Raises `ToolRefusal` where the cluster's own admission refuses what people granted.
    """
    if not any(access.family is Family.CLUSTER for access in accesses) or not isinstance(sandbox, OnCluster):
        yield
        return
    try:
        await sandbox.agent.hold(await _held(store, key.run, without=None))
        yield
    except NotPermitted as error:
        raise ToolRefusal(str(error)[:2000]) from error
    finally:
        await sandbox.agent.hold(await _held(store, key.run, without=key))


async def _held(store: Store, run: RunId, *, without: CallKey | None) -> tuple[Held, ...]:
    def work(tx: Transaction) -> tuple[Held, ...]:
        found = grants.live(tx.connection, run, micros(tx.now), is_use_needed=False)
        return tuple(
            Held(grant.id, rights, grant.expires_at // 1_000_000)
            for grant in found
            if (without is None or grant.call != str(without)) and (rights := rights_of(grant.accesses))
        )

    return await store.write(work)
