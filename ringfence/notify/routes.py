"""`notify.yaml`: who is told of which cards, how, at once or gathered, first or only when others stay silent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ringfence.errors import Mistake
from ringfence_tools.profile_units import Seconds

LIMIT_BYTES = 1 << 20


def _url(value: str) -> str:
    parts = urlsplit(value)
    if not (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1"))
    ):
        raise ValueError("give an https address")
    return value


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Route(_Form):
    """`team` and `groups` choose the cards (all where empty). `after`: only of cards that still wait then, so that a
    later route is the next group's. `digest`: gathered into one message as often as this. `secret`: `env:NAME`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    team: str = ""
    groups: tuple[str, ...] = ()
    webhook: Annotated[str, AfterValidator(_url)] | None = None
    slack: Annotated[str, AfterValidator(_url)] | None = None
    email: tuple[Annotated[str, Field(pattern=r"^[^@\s]{1,64}@[^@\s]{1,255}$")], ...] = ()
    secret: Annotated[str, Field(pattern=r"^(env:[A-Z_][A-Z0-9_]{0,99})?$")] = ""
    after: Seconds = 0
    digest: Seconds = 0

    @model_validator(mode="after")
    def _one_way(self) -> Route:
        if sum((self.webhook is not None, self.slack is not None, bool(self.email))) != 1:
            raise ValueError("name one of webhook, slack and email")
        if self.webhook is not None and not self.secret:
            raise ValueError("a webhook is signed: name its secret as env:NAME")
        return self

    @property
    def way(self) -> Literal["webhook", "slack", "email"]:
        return "webhook" if self.webhook is not None else "slack" if self.slack is not None else "email"


class Smtp(_Form):
    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 25
    sender: Annotated[str, Field(pattern=r"^[^@\s]{1,64}@[^@\s]{1,255}$")]
    user: str = ""
    password: Annotated[str, Field(pattern=r"^(env:[A-Z_][A-Z0-9_]{0,99})?$")] = ""
    tls: Literal["required", "none"] = "required"


class NotifyFile(_Form):
    routes: tuple[Route, ...] = ()
    smtp: Smtp | None = None

    @model_validator(mode="after")
    def _whole(self) -> NotifyFile:
        names = [route.name for route in self.routes]
        if len(set(names)) != len(names):
            raise ValueError("each route has a name of its own")
        if any(route.email for route in self.routes) and self.smtp is None:
            raise ValueError("e-mail needs smtp: {host, sender}")
        return self


def read_routes(path: Path) -> NotifyFile:
    """Nothing where there is no file. Raises `Mistake`."""
    try:
        with path.open("rb") as file:
            body = file.read(LIMIT_BYTES)
    except FileNotFoundError:
        return NotifyFile()
    except OSError as error:
        raise Mistake(f"{path} cannot be read ({error.strerror})", fix="Check its permissions") from error
    try:
        return NotifyFile.model_validate(yaml.safe_load(body) or {})
    except yaml.YAMLError as error:
        raise Mistake(f"{path} is not YAML", fix="docs/notifications.md shows its form") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Mistake(f"{path}: {place}: {first['msg']}", fix="docs/notifications.md shows its form") from error


def secret_of(word: str) -> str:
    """The value behind `env:NAME`. Raises `Mistake` where it is not set."""
    name = word.removeprefix("env:")
    value = os.environ.get(name, "")
    if word and not value:
        raise Mistake(f"notify.yaml names the secret {name}, which is not set", fix=f"Set {name} for this process")
    return value
