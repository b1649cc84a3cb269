"""The tables of people: who there is, in which teams and groups, and by what they are known.

Secrets are kept as hashes; only a TOTP seed has to be readable. Times are microseconds since the epoch by the
database's clock.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, Integer, PrimaryKeyConstraint, Table, Text

from ringfence_audit.schema import metadata

people = Table(
    "people",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("display", Text, nullable=False),
    Column("email", Text, nullable=False, default=""),
    Column("password", Text, nullable=False, default=""),
    Column("totp_seed", Text, nullable=False, default=""),
    Column("totp_step", BigInteger, nullable=False, default=0),
    Column("issuer", Text, nullable=False, default=""),
    Column("subject", Text, nullable=False, default=""),
    Column("disabled_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
)
Index("ix_people_subject", people.c.issuer, people.c.subject)

teams = Table(
    "teams",
    metadata,
    Column("name", Text, primary_key=True),
    Column("title", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

memberships = Table(
    "memberships",
    metadata,
    Column("person", Text, nullable=False),
    Column("team", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("source", Text, nullable=False, default="local"),
    PrimaryKeyConstraint("person", "team", "role", "source"),
    ForeignKeyConstraint(["person"], ["people.name"]),
)

person_groups = Table(
    "person_groups",
    metadata,
    Column("person", Text, nullable=False),
    Column("team", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("source", Text, nullable=False, default="local"),
    PrimaryKeyConstraint("person", "team", "name", "source"),
    ForeignKeyConstraint(["person"], ["people.name"]),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("secret_sha256", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("used_at", BigInteger, nullable=False, default=0),
    ForeignKeyConstraint(["person"], ["people.name"]),
)
Index("ix_tokens_person", tokens.c.person)

web_sessions = Table(
    "web_sessions",
    metadata,
    Column("id_sha256", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("how", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    ForeignKeyConstraint(["person"], ["people.name"]),
)
Index("ix_web_sessions_person", web_sessions.c.person)

setup_links = Table(
    "setup_links",
    metadata,
    Column("secret_sha256", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("totp_seed", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
)

login_attempts = Table(
    "login_attempts",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last_at", BigInteger, nullable=False),
)

provider_logins = Table(
    "provider_logins",
    metadata,
    Column("state_sha256", Text, primary_key=True),
    Column("browser_sha256", Text, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("verifier", Text, nullable=False),
    Column("next", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
