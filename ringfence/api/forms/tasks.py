"""Tasks and runs: what may be asked of them, and how they are answered."""

from __future__ import annotations

from typing import Annotated

from pydantic import AliasChoices, BeforeValidator, Field, StringConstraints

from ringfence.api.forms.shape import Answered, At, Given, Name, Reason, Whole
from ringfence.api.reading import model_name


class NewTask(Given):
    text: Annotated[str, StringConstraints(min_length=1, max_length=32_768, pattern=r"\S")]
    repository: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(
        description="An https URL; a path only where the operator offers a folder of repositories"
    )
    team: Name | None = Field(default=None, description="The team that it is for")
    profile: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}(@[0-9]{1,9})?$")] = "default"
    budget: Annotated[str, StringConstraints(max_length=200)] = Field(default="", description="Such as usd=1,wall=20m")


class TaskOpened(Answered):
    task: str
    run: str


class RunOut(Answered):
    """Of a line of a list, whose text is cut, or of the whole run."""

    id: str
    task: str
    text: str = Field(validation_alias=AliasChoices("text", "task_text"))
    repository: str
    team: str
    state: str
    waits_for: str
    detail: str
    profile: str
    model: Annotated[str, BeforeValidator(model_name)]
    on_behalf_of: str
    turn: int
    cost_micro_usd: int
    input_tokens: int
    output_tokens: int
    created_at: At
    ended_at: At | None


class Said(Given):
    text: Annotated[str, StringConstraints(min_length=1, max_length=32_000, pattern=r"\S")]


class FromStep(Given):
    """A new run beside (or, with `is_retry`, in place of) one that was: with its files and words after `step`."""

    reason: Reason
    step: Annotated[int, Field(ge=0, le=2**31), Whole] | None = Field(default=None, description="Else its latest")
    message: Annotated[str, StringConstraints(max_length=32_000)] = Field(
        default="", description="What the new run's agent should know"
    )
    is_retry: bool = Field(default=False, description="Only of a run that has ended")


class Caps(Given):
    """What the run's own budget is set to; a unit that is left out stays as it is."""

    reason: Reason
    usd_micro: Annotated[int, Field(ge=0, le=10**12), Whole] | None = None
    tokens: Annotated[int, Field(ge=0, le=10**12), Whole] | None = None
    tool_calls: Annotated[int, Field(ge=0, le=10**9), Whole] | None = None
    wall_s: Annotated[int, Field(ge=0, le=10**8), Whole] | None = None
