"""The tools that every run may have, before its profile has its say."""

from __future__ import annotations

from ringfence_tools.builtin.files import EditFile, ListFiles, ReadFile, Search, WriteFile
from ringfence_tools.builtin.people import AskHuman, Finish, RequestAccess
from ringfence_tools.builtin.shell import Shell
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
        )
    )
