"""Log-in at a company's provider: OpenID Connect, authorization code with PKCE (RFC 7636), discovery, signed ID token.

The browser is bound to its log-in by a cookie whose hash is stored with the state: an answer that another browser
brings is refused (log-in CSRF). Groups of the token are mapped to roles and groups here, anew at each log-in. Who the
provider vouches for gets an account of that issuer and subject; one with a local name never takes over a local account.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy import Connection, delete, func, insert, select

from ringfence.auth import people, sessions
from ringfence.auth.errors import LoginRefused, PersonExists, TooManyTries
from ringfence.auth.identity import GroupPlace, Membership
from ringfence.auth.published import Published, Web
from ringfence.auth.refusals import Refusals
from ringfence.auth.roles import Role
from ringfence.auth.schema import people as accounts
from ringfence.auth.schema import provider_logins
from ringfence.auth.secret_values import fingerprint, new_secret
from ringfence_audit.port import Store, Transaction
from ringfence_tools.clock import micros

WITHIN_US = 10 * 60 * 1_000_000
ALGORITHMS = ["RS256", "ES256", "PS256", "EdDSA", "RS512", "ES384"]
"""Signatures that are believed: no `none`, no shared-secret one."""
MOST_PENDING = 5_000
"""Log-ins that may have been begun and not ended: strangers begin them too."""
_LEEWAY_S = 60
_PENDING = select(func.count()).select_from(provider_logins)


class GroupRule(BaseModel):
    """What a group of the provider gives: roles as `TEAM:ROLE`, groups as `TEAM:GROUP`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    roles: list[Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9._-]{0,62}|\*):[a-z]+$")]] = []
    groups: list[Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9._-]{0,62}|\*):[a-z0-9][a-z0-9._-]{0,62}$")]] = []


class ProviderSettings(BaseModel):
    """`RINGFENCE_OIDC`, as JSON. `name_claim` gives the account's name, `groups_claim` what is mapped."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    issuer: str = Field(pattern=r"^https?://")
    client_id: str
    client_secret: SecretStr = SecretStr("")
    scopes: str = "openid profile email"
    name_claim: str = "preferred_username"
    groups_claim: str = "groups"
    map: dict[str, GroupRule] = {}


@dataclass(frozen=True, slots=True)
class Started:
    """Where the browser is sent, and the secret that its cookie keeps meanwhile."""

    url: str
    browser: str


@dataclass(frozen=True, slots=True)
class Finished:
    session: str
    next: str


@dataclass(frozen=True, slots=True)
class _Pending:
    nonce: str
    verifier: str
    next: str


class Provider:
    """One provider. What it publishes is read when it is needed and believed for `KEPT_S`: strangers who begin log-ins
    cause no request each. Use it on one event loop."""

    def __init__(
        self,
        settings: ProviderSettings,
        web: Web,
        *,
        redirect_uri: str,
        refusals: Refusals | None = None,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._web = web
        self._redirect_uri = redirect_uri
        self._refusals = refusals or Refusals()
        self._published = Published(web, ticks)

    async def start(self, store: Store, *, next_path: str) -> Started:
        """Raises `LoginRefused` where the provider's word is not usable, `OSError` where it does not answer."""
        found = await self._discovered()
        state, browser, nonce, verifier = new_secret(), new_secret(), new_secret(), secrets.token_urlsafe(48)

        def keep(tx: Transaction) -> None:
            tx.connection.execute(delete(provider_logins).where(provider_logins.c.expires_at < micros(tx.now)))
            if tx.connection.execute(_PENDING).scalar_one() >= MOST_PENDING:
                raise TooManyTries(WITHIN_US // 1_000_000)
            tx.connection.execute(
                insert(provider_logins).values(
                    state_sha256=fingerprint(state),
                    browser_sha256=fingerprint(browser),
                    nonce=nonce,
                    verifier=verifier,
                    next=next_path,
                    expires_at=micros(tx.now) + WITHIN_US,
                )
            )

        await store.write(keep)
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": self._settings.scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": _challenge(verifier),
            "code_challenge_method": "S256",
        }
        return Started(_with_query(_text(found, "authorization_endpoint"), asked), browser)

    async def finish(self, store: Store, *, state: str, code: str, browser: str, address: str) -> Finished:
        """Open the session of the person whom the provider names; without a code it let nobody in.

        Raises `LoginRefused`, and `OSError`.
        """
        try:
            return await self._finish(store, state=state, code=code, browser=browser, address=address)
        except LoginRefused as error:
            data = {"what": "login.refused", "claimed": "", "address": address, "reason": f"provider: {error}"[:300]}
            await self._refusals.record(store, lambda _: data)
            raise

    async def _finish(self, store: Store, *, state: str, code: str, browser: str, address: str) -> Finished:
        if not code:
            raise LoginRefused("the provider let nobody in")
        # Looked at before it is taken: a stranger's made-up answer costs no transaction.
        pending = None
        if await store.read(lambda connection: _is_begun(connection, state, browser)):
            pending = await store.write(lambda tx: _take(tx, state, browser))
        if pending is None:
            raise LoginRefused("this log-in was not begun here, or is too old")
        found = await self._discovered()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "client_id": self._settings.client_id,
            "code_verifier": pending.verifier,
        }
        secret = self._settings.client_secret.get_secret_value()
        if secret:
            form["client_secret"] = secret
        answer = await self._web.post_form(_text(found, "token_endpoint"), form)
        claims = await self._claims(found, _text(answer, "id_token"), pending.nonce)

        def enter(tx: Transaction) -> str:
            name = self._account(tx, claims)
            return sessions.open_session(tx, name, how=f"provider {self._settings.issuer}"[:200], address=address)

        return Finished(await store.write(enter), pending.next)

    async def _discovered(self) -> Mapping[str, object]:
        base = self._settings.issuer.rstrip("/")
        found = await self._published.get(f"{base}/.well-known/openid-configuration")
        if str(found.get("issuer", "")).rstrip("/") != base:
            raise LoginRefused("the provider calls itself by another name", fix="Mend `issuer` in RINGFENCE_OIDC")
        return found

    async def _claims(self, found: Mapping[str, object], token: str, nonce: str) -> Mapping[str, object]:
        """The ID token's claims; signature, issuer, audience, times and nonce checked (OpenID Connect 1.0, 3.1.3.7)."""
        address = _text(found, "jwks_uri")
        try:
            try:
                decoded = _decoded(token, await self._published.get(address))
            except (JoseError, ValueError):
                # The provider may have changed its keys since they were read.
                decoded = _decoded(token, await self._published.get(address, is_doubted=True))
            registry = jwt.JWTClaimsRegistry(
                leeway=_LEEWAY_S,
                iss={"essential": True, "values": [self._settings.issuer, self._settings.issuer.rstrip("/")]},
                aud={"essential": True, "value": self._settings.client_id},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
            )
            registry.validate(decoded.claims)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise LoginRefused("the provider's answer cannot be believed", fix="Tell an admin") from error
        claims: Mapping[str, object] = decoded.claims
        if not hmac.compare_digest(str(claims.get("nonce", "")), nonce):
            raise LoginRefused("the provider's answer belongs to another log-in")
        audience = claims.get("aud")
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != self._settings.client_id:
            raise LoginRefused("the provider's answer is for another client")
        return claims

    def _account(self, tx: Transaction, claims: Mapping[str, object]) -> str:
        """The account of this issuer and subject, made at the first log-in, with its places as the groups say now."""
        issuer, subject = self._settings.issuer, str(claims["sub"])
        where = (accounts.c.issuer == issuer) & (accounts.c.subject == subject)
        row = tx.connection.execute(select(accounts.c.name, accounts.c.disabled_at).where(where)).first()
        if row is not None and row.disabled_at is not None:
            raise LoginRefused("this account is closed", fix="Ask an admin")
        by = "system:provider"
        name = row.name if row is not None else _name(str(claims.get(self._settings.name_claim) or subject))
        if row is None:
            display, email = str(claims.get("name") or name)[:200], str(claims.get("email") or "")[:320]
            try:
                people.create_person(tx, name, by=by, display=display, email=email, issuer=issuer, subject=subject)
            except PersonExists as error:
                raise LoginRefused(f"the name {name} is taken here by another account", fix="Ask an admin") from error
        roles, groups = self._places(claims.get(self._settings.groups_claim), _teams(tx))
        people.set_places(tx, name, by=by, roles=roles, groups=groups, source="provider")
        return str(name)

    def _places(self, held: object, teams: frozenset[str]) -> tuple[list[Membership], list[GroupPlace]]:
        """What the mapping gives for the provider's groups; a team that does not exist gives nothing."""
        names = {str(one) for one in held} if isinstance(held, list) else set()
        rules = [rule for name, rule in self._settings.map.items() if name in names]
        roles = [word.split(":", 1) for rule in rules for word in rule.roles]
        groups = [word.split(":", 1) for rule in rules for word in rule.groups]
        known = {*teams, "*"}
        return (
            [Membership(team, Role(role)) for team, role in roles if team in known and role in set(Role)],
            [GroupPlace(team, name) for team, name in groups if team in known],
        )


def _decoded(token: str, keys: Mapping[str, object]) -> jwt.Token:
    # Any: the library's key-set form is untyped JSON.
    return jwt.decode(token, KeySet.import_key_set(keys), algorithms=ALGORITHMS)  # type: ignore[arg-type]


def _is_begun(connection: Connection, state: str, browser: str) -> bool:
    where = provider_logins.c.state_sha256 == fingerprint(state)
    row = connection.execute(select(provider_logins.c.browser_sha256).where(where)).first()
    return row is not None and hmac.compare_digest(row.browser_sha256, fingerprint(browser))


def _challenge(verifier: str) -> str:
    """RFC 7636, section 4.2."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _take(tx: Transaction, state: str, browser: str) -> _Pending | None:
    """The log-in that this browser began, used up by the asking."""
    where = provider_logins.c.state_sha256 == fingerprint(state)
    row = tx.connection.execute(select(provider_logins).where(where)).first()
    if row is None:
        return None
    if not hmac.compare_digest(row.browser_sha256, fingerprint(browser)):
        return None
    tx.connection.execute(delete(provider_logins).where(where))
    return _Pending(row.nonce, row.verifier, row.next) if row.expires_at > micros(tx.now) else None


def _teams(tx: Transaction) -> frozenset[str]:
    return frozenset(team.name for team in people.list_teams(tx.connection, limit=10_000))


def _name(claimed: str) -> str:
    """An account name out of what the provider says; the part before an `@`."""
    word = re.sub(r"[^a-z0-9._-]+", "-", claimed.partition("@")[0].lower()).strip("-._")[:63]
    if not word:
        raise LoginRefused("the provider names no usable account", fix="Set `name_claim` in RINGFENCE_OIDC")
    return word


def _text(found: Mapping[str, object], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise LoginRefused(f"the provider's answer lacks {name}", fix="Tell an admin")
    return value


def _with_query(url: str, asked: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(asked)}"
