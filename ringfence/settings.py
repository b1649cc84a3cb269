"""Where Ringfence keeps its state and what the environment says. Read once by each command, passed on from there.

Every setting is an environment variable: `RINGFENCE_HOME`, `RINGFENCE_PROFILE`, and so on; the model's are the ones
that its clients use everywhere (`OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OPENAI_MODEL`).
`RINGFENCE_KUBERNETES` (JSON, see `cluster.ClusterForm`) is the cluster that runs execute on.
`RINGFENCE_EGRESS` (JSON: `upstream`, `direct`, `ca_files`) is how this machine reaches the outside, sandboxes and model
alike.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, JsonValue, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ringfence.errors import Mistake

LOG_ORIGIN = "ringfence.local/log"
"""The name under which a machine's own log signs its checkpoints."""


def _state_home() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ringfence"


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ringfence"


class Settings(BaseSettings):
    """Paths are absolute after `load_settings`; nothing is created by reading them."""

    model_config = SettingsConfigDict(env_prefix="RINGFENCE_", extra="ignore", frozen=True, hide_input_in_errors=True)

    home: Path = Field(default_factory=_state_home)
    config: Path = Field(default_factory=_config_home)
    profile: str = "default"
    database_url: SecretStr | None = None
    """`postgresql://…` where several machines share the state; without it the state is a file in `home`."""
    audit_key: Path | None = None
    """The log's signing key where it does not lie in `home`: all that write to one database sign with one key."""
    keys: Path | None = None
    """The folder of the keys where it is not `home`: one that outlives no pod, while `home` is shared."""
    egress: dict[str, JsonValue] = Field(default_factory=dict)
    """Checked where it is used (`wiring.egress_of`): reading it here would cost every command the proxy's imports."""
    oidc: dict[str, JsonValue] = Field(default_factory=dict)
    """Checked where it is used (`auth.provider.ProviderSettings`)."""
    repositories: Path | None = None
    """A folder whose repositories may be named by path over the API; without it only URLs may."""
    kubernetes: dict[str, JsonValue] = Field(default_factory=dict)
    """Checked where it is used (`cluster.cluster_form`)."""
    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(default=None, validation_alias="OPENAI_BASE_URL")
    openai_model: str | None = Field(default=None, validation_alias="OPENAI_MODEL")

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("it names a PostgreSQL database, postgresql://USER@HOST/NAME; a file needs no setting")
        if url is not None:
            _check_address(url.get_secret_value())
        return url

    @property
    def database(self) -> Path:
        """The file that holds the state where no `database_url` is set."""
        return self.home / "ringfence.db"

    @property
    def blobs(self) -> Path:
        """Large bodies of the log, beside a database that is a file."""
        return self.database.with_name(f"{self.database.name}-blobs")

    @property
    def store_url(self) -> str:
        """Where the one database is."""
        return f"sqlite:///{self.database}" if self.database_url is None else self.database_url.get_secret_value()

    @property
    def key_file(self) -> Path:
        return self.audit_key or self.key_folder / "audit.key"

    @property
    def key_folder(self) -> Path:
        return self.keys or self.home

    @property
    def index_file(self) -> Path:
        """The audit index: derived, may be removed."""
        return self.home / "index.db"

    @property
    def originals_key(self) -> Path:
        """Seals what redaction took out of the log; without it those digests cannot be recomputed."""
        return self.key_folder / "originals.key"

    @property
    def people_key(self) -> Path:
        """Seals second factors; without it everyone is invited again."""
        return self.key_folder / "people.key"

    @property
    def sandbox_key(self) -> Path:
        """From it the credentials of sandboxes on a cluster are derived."""
        return self.key_folder / "sandbox.key"

    @property
    def sandboxes(self) -> Path:
        return self.home / "sandboxes"

    @property
    def runs(self) -> Path:
        """A folder for each run: its bundle, its patch."""
        return self.home / "runs"

    @property
    def people_file(self) -> Path:
        return self.config / "people.yaml"

    @property
    def profile_search(self) -> Sequence[Path]:
        """Where profiles are found by name, before the built-in ones. Never inside a task's repository."""
        return (self.config / "profiles",)

    @property
    def has_model(self) -> bool:
        return self.openai_api_key is not None or self.openai_base_url is not None


def _check_address(url: str) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ValueError("it is no address; several hosts with ports are ?host=A:5432&host=B:5432") from error


def load_settings(*, home: Path | None = None) -> Settings:
    """The settings of this process; `home` overrules the environment and is a state of its own. Raises `Mistake`."""
    try:
        settings = Settings() if home is None else Settings(home=home, database_url=None, audit_key=None, keys=None)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]).upper()
        raise Mistake(f"the setting {name} cannot be used: {first['msg']}", fix="Mend or unset it") from error
    return settings.model_copy(
        update={"home": settings.home.expanduser().absolute(), "config": settings.config.expanduser().absolute()}
    )


def make_home(settings: Settings) -> None:
    """Create the state folder, for this user only. Raises `Mistake` where it cannot be used."""
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_open = settings.home.stat().st_mode & 0o022
    except OSError as error:
        raise Mistake(
            f"the state folder {settings.home} cannot be used ({error.strerror})",
            fix="Point RINGFENCE_HOME at a folder that you may write",
        ) from error
    if is_open or not os.access(settings.home, os.W_OK):
        raise Mistake(
            f"the state folder {settings.home} is {'writable to others' if is_open else 'not writable to you'}",
            fix=f"chmod go-w {settings.home}" if is_open else "Point RINGFENCE_HOME at a folder that you may write",
        )
