"""Log-ins against a real store: what is refused, what slows down, and that each is an entry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

import ringfence.auth.schema  # noqa: F401 its tables
from ringfence.auth import passwords, people, sessions, tokens
from ringfence.auth.errors import LinkInvalid, LoginRefused, PersonExists, PersonUnknown, TooManyTries
from ringfence.auth.identity import GroupPlace, Membership
from ringfence.auth.roles import Permission, Role
from ringfence.auth.schema import people as people_table
from ringfence.auth.sealing import Seal
from ringfence_audit.events import Kind
from ringfence_audit.keys import Signer
from ringfence_audit.port import Transaction
from ringfence_audit.query import Filter, PageRequest, query
from ringfence_audit.store import SqlStore
from ringfence_tools.clock import micros

PASSWORD = "three random words"
SEAL = Seal.generate()


class Nobody:
    def groups_of(self, name: str, *, team: str) -> frozenset[str]:
        return frozenset()


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 24, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[SqlStore]:
    signer = Signer.generate("test.example/log")
    with SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=signer, clock=clock) as store:
        store.create_schema()
        yield store


async def ana(store: SqlStore, clock: Clock) -> str:
    """An enrolled account; returns its TOTP seed."""
    await store.write(lambda tx: people.create_person(tx, "ana", by="system:test"))
    link = await store.write(lambda tx: people.invite(tx, "ana", by="system:test", seal=SEAL))
    sealed = store.read_now(lambda c: people.setup_link(c, link, micros(clock.now))).sealed_seed
    seed = SEAL.open(sealed, "ana")
    await sessions.enrol(store, SEAL, link, PASSWORD, code(seed, clock), address="192.0.2.1")
    clock.forward(60)
    return seed


def code(seed: str, clock: Clock) -> str:
    return passwords.code_at(seed, int(clock.now.timestamp()) // 30)


async def test_a_wrong_password_a_wrong_code_and_an_unknown_name_are_refused_alike(
    store: SqlStore, clock: Clock
) -> None:
    seed = await ana(store, clock)
    said = set()
    for name, password, digits in [
        ("ana", "wrong password here", code(seed, clock)),
        ("ana", PASSWORD, "000000"),
        ("nobody", PASSWORD, code(seed, clock)),
    ]:
        with pytest.raises(LoginRefused) as refused:
            await sessions.log_in(store, SEAL, name, password, digits, address="192.0.2.1")
        said.add(str(refused.value))
    assert len(said) == 1


async def test_a_code_cannot_be_used_twice(store: SqlStore, clock: Clock) -> None:
    seed = await ana(store, clock)
    await sessions.log_in(store, SEAL, "ana", PASSWORD, code(seed, clock), address="192.0.2.1")
    with pytest.raises(LoginRefused):
        await sessions.log_in(store, SEAL, "ana", PASSWORD, code(seed, clock), address="192.0.2.1")


async def test_tries_at_once_cannot_pass_the_brake_together(store: SqlStore, clock: Clock) -> None:
    await ana(store, clock)

    async def attempt() -> type[BaseException]:
        with pytest.raises(LoginRefused) as refused:
            await sessions.log_in(store, SEAL, "ana", "a wrong password", "123456", address="192.0.2.9")
        return refused.type

    kinds = await asyncio.gather(*(attempt() for _ in range(12)))
    assert kinds.count(LoginRefused) <= 6
    assert kinds.count(TooManyTries) >= 6


async def test_the_owner_gets_in_from_elsewhere_while_a_stranger_is_slowed(store: SqlStore, clock: Clock) -> None:
    seed = await ana(store, clock)
    for _ in range(6):
        with pytest.raises(LoginRefused):
            await sessions.log_in(store, SEAL, "ana", "a wrong password", "123456", address="192.0.2.9")
    assert await sessions.log_in(store, SEAL, "ana", PASSWORD, code(seed, clock), address="192.0.2.1")


async def test_a_link_opens_once_and_not_after_a_day(store: SqlStore, clock: Clock) -> None:
    await store.write(lambda tx: people.create_person(tx, "ben", by="system:test"))
    link = await store.write(lambda tx: people.invite(tx, "ben", by="system:test", seal=SEAL))
    clock.forward(25 * 3600)
    with pytest.raises(LinkInvalid):
        await sessions.enrol(store, SEAL, link, PASSWORD, "123456", address="192.0.2.1")
    link = await store.write(lambda tx: people.invite(tx, "ben", by="system:test", seal=SEAL))
    sealed = store.read_now(lambda c: people.setup_link(c, link, micros(clock.now))).sealed_seed
    seed = SEAL.open(sealed, "ben")
    assert await sessions.enrol(store, SEAL, link, PASSWORD, code(seed, clock), address="192.0.2.1")
    clock.forward(60)
    with pytest.raises(LinkInvalid):
        await sessions.enrol(store, SEAL, link, PASSWORD, code(seed, clock), address="192.0.2.1")


async def test_a_session_ends_when_idle_when_old_at_log_out_and_with_its_account(store: SqlStore, clock: Clock) -> None:
    seed = await ana(store, clock)

    async def fresh() -> str:
        clock.forward(60)
        return await sessions.log_in(store, SEAL, "ana", PASSWORD, code(seed, clock), address="192.0.2.1")

    def is_live(secret: str) -> bool:
        return store.read_now(lambda c: sessions.authenticate(c, secret, micros(clock.now))) is not None

    idle = await fresh()
    assert is_live(idle)
    clock.forward(2 * 3600)
    assert not is_live(idle)
    left = await fresh()
    await store.write(lambda tx: sessions.log_out(tx, left))
    assert not is_live(left)
    last = await fresh()
    await store.write(lambda tx: people.disable_person(tx, "ana", by="system:test"))
    assert not is_live(last)


async def test_a_token_is_refused_once_revoked_expired_or_its_owner_disabled(store: SqlStore, clock: Clock) -> None:
    await store.write(lambda tx: people.create_person(tx, "bot", by="system:test", kind="service"))
    await store.write(lambda tx: people.create_team(tx, "search", by="system:test"))
    roles = [Membership("search", Role.MEMBER)]
    await store.write(lambda tx: people.set_places(tx, "bot", by="system:test", roles=roles, groups=[]))

    async def fresh() -> str:
        made = await store.write(
            lambda tx: tokens.create(tx, "bot", by="person:ana", scopes=[Permission.READ], label="ci", days=1)
        )
        return str(made)

    def is_live(text: str) -> bool:
        return store.read_now(lambda c: tokens.authenticate(c, text, micros(clock.now))) is not None

    first = await fresh()
    assert is_live(first)
    assert not is_live(first[:-1] + ("A" if first[-1] != "A" else "B"))
    await store.write(lambda tx: tokens.revoke(tx, first.split("_")[1], by="person:ana"))
    assert not is_live(first)
    second = await fresh()
    clock.forward(86400)
    assert not is_live(second)
    third = await fresh()
    await store.write(lambda tx: people.disable_person(tx, "bot", by="system:test"))
    assert not is_live(third)


async def test_a_name_is_taken_once_and_a_role_needs_its_team(store: SqlStore) -> None:
    await store.write(lambda tx: people.create_person(tx, "ana", by="system:test"))
    with pytest.raises(PersonExists):
        await store.write(lambda tx: people.create_person(tx, "ana", by="system:test"))
    with pytest.raises(PersonUnknown):
        await store.write(
            lambda tx: people.set_places(
                tx, "ana", by="system:test", roles=[Membership("nowhere", Role.ADMIN)], groups=[]
            )
        )


async def test_the_directory_asks_the_fallback_only_for_names_without_an_account(store: SqlStore) -> None:
    class Everyone:
        def groups_of(self, name: str, *, team: str) -> frozenset[str]:
            return frozenset({"owner"})

    directory = people.AccountDirectory(store, Everyone())
    await store.write(lambda tx: people.create_person(tx, "ana", by="system:test"))
    assert directory.groups_of("ana", team="") == frozenset()
    assert directory.groups_of("root", team="") == {"owner"}


async def test_a_group_of_another_team_does_not_count(store: SqlStore) -> None:
    def place(tx: Transaction) -> None:
        people.create_person(tx, "ana", by="system:test")
        for team in ("billing", "shop"):
            people.create_team(tx, team, by="system:test")
        held = [GroupPlace("billing", "team-lead"), GroupPlace("*", "security")]
        people.set_places(tx, "ana", by="system:test", roles=[], groups=held)

    await store.write(place)
    directory = people.AccountDirectory(store, Nobody())
    assert directory.groups_of("ana", team="shop") == {"security"}
    assert directory.groups_of("ana", team="") == {"security"}
    assert directory.groups_of("ana", team="billing") == {"team-lead", "security"}


async def test_each_log_in_good_or_bad_is_an_entry_that_holds_no_secret(store: SqlStore, clock: Clock) -> None:
    seed = await ana(store, clock)
    with pytest.raises(LoginRefused):
        await sessions.log_in(store, SEAL, "ana", "a wrong password", "123456", address="192.0.2.9")
    secret = await sessions.log_in(store, SEAL, "ana", PASSWORD, code(seed, clock), address="192.0.2.1")
    await store.write(lambda tx: sessions.log_out(tx, secret))
    asked = Filter(kind=Kind.LOGIN.value)
    found = store.read_now(lambda c: query(c, asked, PageRequest(oldest_first=True))).entries
    assert [entry.data["what"] for entry in found][-4:] == ["login", "login.refused", "login", "logout"]
    written = " ".join(str(entry.data) for entry in found)
    assert not any(kept in written for kept in (secret, PASSWORD, "a wrong password", seed))


async def test_a_second_factor_lies_in_the_database_sealed_and_opens_for_its_owner_alone(
    store: SqlStore, clock: Clock
) -> None:
    seed = await ana(store, clock)
    sealed = store.read_now(lambda c: c.execute(select(people_table.c.totp_seed)).scalar_one())
    assert seed not in sealed
    assert SEAL.open(sealed, "ben") == ""
    assert Seal.generate().open(sealed, "ana") == ""
    assert SEAL.open(sealed, "ana") == seed
