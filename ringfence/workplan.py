"""`workers.yaml`: how many runs may go on at once, over all workers and in each. Read by whoever works or explains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringfence.errors import Mistake
from ringfence_agents.queue import QueueLimits

FILE = "workers.yaml"
"""In the configuration folder. Absent: the defaults of `WorkPlan`."""

Count = Annotated[int, Field(ge=0, le=1_000_000)]


class WorkPlan(BaseModel):
    """How much may go on at once. `runs`, `teams` and `profiles` are counted over all workers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    at_once: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Runs that one worker process drives."""
    runs: Count = 1_000
    teams: Mapping[str, Count] = Field(default_factory=dict)
    profiles: Mapping[str, Count] = Field(default_factory=dict)
    drain_s: Annotated[int, Field(ge=1, le=3600)] = 30
    """How long a worker that goes away lets its runs reach their next step."""

    release_after_s: Annotated[int, Field(ge=1, le=30 * 86400)] = 1800
    """How long a run waits before its suspended sandbox is removed, its files kept as an archive."""

    @property
    def limits(self) -> QueueLimits:
        return QueueLimits(self.runs, self.teams, self.profiles)


def read_plan(config: Path) -> WorkPlan:
    """The plan in the configuration folder `config`. Raises `Mistake` for one that cannot be used."""
    path = config / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return WorkPlan()
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{path} cannot be read ({error})", fix="Mend or remove it") from error
    try:
        return WorkPlan.model_validate(yaml.safe_load(text) or {})
    except yaml.YAMLError as error:
        raise Mistake(f"{path} is not YAML: {' '.join(str(error).split())}", fix="Mend or remove it") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise Mistake(
            f"{path}: {place}: {first['msg']}",
            fix="It may say at_once, runs, teams, profiles, drain_s, release_after_s",
        ) from (error)
