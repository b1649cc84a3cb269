"""Real toolchains inside, unchanged: what developers type works, with no network but what is opened."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringfence_sandbox.contract import Bundle, SandboxId, SandboxSpec
from ringfence_sandbox.egress import EgressSettings, RunAuthority
from ringfence_sandbox.local.backend import LocalBackend
from ringfence_sandbox.local.host_tree import toolchain_mounts
from tests.contracts.sandbox.conftest import Box
from tests.fakes.egress import Everywhere, FakeGatekeeper, opened, server, site
from tests.integration.egress.test_toolchains import wheel

pytestmark = pytest.mark.sandbox

HOST = "packages.example"


@dataclass
class Desk(Box):
    """A box with the tools of this person's PATH, as `ringfence run` makes it, and a package index that is open."""

    port: int = 0


@pytest.fixture
async def desk(tmp_path: Path, bundle: Bundle) -> AsyncIterator[Desk]:
    outside = RunAuthority.create("outside")
    (tmp_path / "company.pem").write_bytes(outside.certificate_pem)
    settings = EgressSettings(ca_files=(tmp_path / "company.pem",))
    backend = LocalBackend(tmp_path / "state", egress=settings, resolver=Everywhere())
    tree = toolchain_mounts(os.environ, Path(sys.prefix) if sys.prefix != sys.base_prefix else None)
    environment = {"PATH": tree.path_variable, **tree.environment}
    spec = SandboxSpec(SandboxId("tools-1"), environment=environment, mounts=tree.mounts, has_egress=True)
    pages = {
        "/simple/tiny/": b'<a href="/f/tiny-1.0-py3-none-any.whl">tiny-1.0-py3-none-any.whl</a>',
        "/f/tiny-1.0-py3-none-any.whl": wheel(),
    }
    async with server(site(pages), tls=outside.server_context(HOST)) as port:
        sandbox = await backend.create(spec, egress=FakeGatekeeper({HOST: opened()}))
        await sandbox.load(bundle)
        yield Desk(backend, spec, sandbox, port=port)
        await backend.destroy(spec.id)
    await backend.close()


WORK = {
    "pytest": (
        "pytest",
        "echo 'def test_x(): assert 1 + 1 == 2' > test_x.py; python3 -m pytest -q test_x.py -p no:cacheprovider",
        "1 passed",
    ),
    "pip": (
        "python3",
        "python3 -m venv v && v/bin/pip install -q --index-url https://packages.example:{port}/simple/ tiny"
        " && v/bin/python -c 'import tiny; print(\"imported\")'",
        "imported",
    ),
    "npm": (
        "npm",
        'mkdir -p dep n && cd n && echo \'{{"name":"dep","version":"1.0.0"}}\' > ../dep/package.json'
        ' && echo \'{{"name":"n","scripts":{{"test":"node -e \\"console.log(6*7)\\""}}}}\' > package.json'
        " && npm install --no-audit --no-fund ../dep && npm test",
        "42",
    ),
    "gcc": (
        "gcc",
        "printf '#include <stdio.h>\\nint main(void) {{ puts(\"built\"); return 0; }}\\n' > x.c && gcc -o x x.c && ./x",
        "built",
    ),
    "git": (
        "git",
        "git checkout -qb topic && echo y > y && git add y && git -c user.name=a -c user.email=a@x.org commit -qm y"
        " && git log --oneline | wc -l && git merge-base --is-ancestor main topic && echo merged",
        "merged",
    ),
    "sqlite": ("sqlite3", "sqlite3 x.db 'create table t(x); insert into t values (7); select x*6 from t'", "42"),
    "python's sqlite": (
        "python3",
        "python3 -c \"import sqlite3; d=sqlite3.connect('y.db'); d.execute('pragma journal_mode=wal'); "
        "d.execute('create table t(x)'); d.execute('insert into t values(1)'); d.commit(); print('kept')\"",
        "kept",
    ),
    "make": ("make", "printf 'all:\\n\\t@echo made\\n' > Makefile && make", "made"),
}


@pytest.mark.parametrize("name", WORK)
async def test_what_a_developer_types_works(name: str, desk: Desk) -> None:
    program, command, expected = WORK[name]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    outcome = await desk.sh(command.format(port=desk.port), timeout_s=110)
    said = (outcome.head + outcome.tail).decode(errors="replace")
    assert (outcome.ending.value, outcome.exit_code) == ("done", 0), said
    assert expected in said


async def test_a_server_that_one_command_starts_is_reached_by_the_next(desk: Desk) -> None:
    await desk.sh("python3 -m http.server 8000 > server.log 2>&1 & while ! ss -ltn 2>/dev/null | grep -q 8000 && "
                  "! curl -s -o /dev/null http://localhost:8000/; do sleep 0.05; done", timeout_s=60)  # fmt: skip
    assert await desk.says("curl -s http://localhost:8000/app.py") == "x = 1"
