"""The way out of a sandbox: a proxy that asks before anything leaves."""

from ringfence_sandbox.egress.authority import RunAuthority
from ringfence_sandbox.egress.dialer import Upstream
from ringfence_sandbox.egress.limits import EgressLimits
from ringfence_sandbox.egress.proxy import EgressProxy

__all__ = ["EgressLimits", "EgressProxy", "RunAuthority", "Upstream"]
