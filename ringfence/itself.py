"""How Ringfence starts itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def itself(*words: str) -> Sequence[str]:
    """The command `ringfence WORDS` with this interpreter.

    `-P`: a person stands in the repository that they bring, and `-m` alone would import what lies there first.
    """
    return (sys.executable, "-P", "-m", "ringfence", *words)
