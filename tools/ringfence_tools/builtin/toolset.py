"""The tools that every run may have, before its profile has its say."""

from __future__ import annotations

from ringfence_tools.builtin.files import EditFile, ListFiles, ReadFile, Search, WriteFile
from ringfence_tools.builtin.kubernetes import (
    KubernetesApply,
    KubernetesDelete,
    KubernetesGet,
    KubernetesList,
    KubernetesLogs,
    KubernetesPortForward,
    KubernetesWatch,
)
from ringfence_tools.builtin.people import AskHuman, Finish, RequestAccess
from ringfence_tools.builtin.shell import Shell
from ringfence_tools.profile import Profile
from ringfence_tools.toolbox import Toolbox


def builtin_toolbox() -> Toolbox:
    return Toolbox(
        (
            Shell(),
            ReadFile(),
            WriteFile(),
            EditFile(),
            Search(),
            ListFiles(),
            RequestAccess(),
            AskHuman(),
            Finish(),
            KubernetesGet(),
            KubernetesList(),
            KubernetesWatch(),
            KubernetesLogs(),
            KubernetesPortForward(),
            KubernetesApply(),
            KubernetesDelete(),
        )
    )


def toolbox_for(profile: Profile, toolbox: Toolbox) -> Toolbox:
    """What a run of this profile gets: the cluster's tools only where the profile speaks of them."""
    if profile.tools.kubernetes is not None:
        return toolbox
    return toolbox.only(lambda name: not name.startswith("kubernetes_"))
