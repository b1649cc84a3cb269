"""The roles table, and what an identity may do by it."""

from __future__ import annotations

import pytest

from ringfence.auth.identity import GroupPlace, Identity, Membership
from ringfence.auth.roles import MEANINGS, TABLE, Permission, Role, markdown


def ana(*memberships: Membership, scopes: frozenset[Permission] | None = None, is_service: bool = False) -> Identity:
    return Identity("ana", "Ana", is_service, memberships, scopes=scopes)


def test_nobody_without_a_role_may_do_anything() -> None:
    assert not any(ana().may(permission, "search") for permission in Permission)


def test_a_role_in_one_team_opens_nothing_in_another() -> None:
    identity = ana(Membership("search", Role.REVIEWER))
    assert identity.may(Permission.DECIDE, "search")
    assert not identity.may(Permission.DECIDE, "payments")
    assert not identity.may(Permission.READ, "")
    assert "payments" not in identity.reach(Permission.READ)


def test_an_auditor_changes_nothing() -> None:
    assert TABLE[Role.AUDITOR] <= {Permission.READ, Permission.READ_ENTRIES, Permission.EXPORT}


def test_neither_platform_nor_admin_decides() -> None:
    assert Permission.DECIDE not in TABLE[Role.PLATFORM] | TABLE[Role.ADMIN]


def test_a_token_never_widens_its_owner() -> None:
    identity = ana(Membership("search", Role.MEMBER), scopes=frozenset({Permission.DECIDE, Permission.READ}))
    assert identity.permissions_in("search") == {Permission.READ}


def test_a_service_account_never_decides_whatever_its_role() -> None:
    identity = ana(Membership("*", Role.REVIEWER), Membership("*", Role.ADMIN), is_service=True)
    assert not identity.may(Permission.DECIDE, "search")
    assert not identity.may(Permission.MANAGE, "*")
    assert identity.may(Permission.READ, "search")


def test_a_role_in_every_team_reaches_what_belongs_to_none() -> None:
    identity = ana(Membership("*", Role.AUDITOR))
    assert identity.may(Permission.READ_ENTRIES, "")
    assert identity.reach(Permission.READ).is_everywhere


def test_groups_count_in_their_own_team_only() -> None:
    groups = (GroupPlace("search", "team-lead"), GroupPlace("*", "security"))
    identity = Identity("ana", "Ana", False, (), groups)
    assert identity.person_in("search").groups == {"team-lead", "security"}
    assert identity.person_in("payments").groups == {"security"}


@pytest.mark.parametrize("permission", Permission)
def test_every_permission_is_explained_and_some_role_holds_it(permission: Permission) -> None:
    assert MEANINGS[permission]
    assert any(permission in held for held in TABLE.values())
    assert f"`{permission}`" in markdown()
