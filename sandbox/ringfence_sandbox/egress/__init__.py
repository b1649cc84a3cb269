"""The way out of a sandbox: a proxy that asks before anything leaves."""

from ringfence_sandbox.egress.authority import RunAuthority
from ringfence_sandbox.egress.dialer import Upstream
from ringfence_sandbox.egress.environment import environment
from ringfence_sandbox.egress.limits import EgressLimits
from ringfence_sandbox.egress.proxy import EgressProxy
from ringfence_sandbox.egress.service import EgressService
from ringfence_sandbox.egress.settings import EgressSettings

__all__ = ["EgressLimits", "EgressProxy", "EgressService", "EgressSettings", "RunAuthority", "Upstream", "environment"]
