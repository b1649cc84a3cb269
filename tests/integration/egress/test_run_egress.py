"""Egress of a whole run, as a person types it: profile, company's proxy and CA, secret, entries."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from ringfence_sandbox.egress import EgressProxy, RunAuthority
from tests.contracts.sandbox.repositories import git
from tests.fakes.egress import Everywhere, FakeGatekeeper, opened, server, serving, site
from tests.integration.cli.test_run import Person, person

__all__ = ["person"]

HOST = "packages.example"
TOKEN = "t0p-secret-token"
PROFILE = """\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {{name: test, owner: owner, version: 1}}
extends: default@1
network:
  opened: ["{host}:{port}"]
  credentials: [{{host: "{host}:{port}", from: "env:INDEX_TOKEN", template: "Bearer {{}}"}}]
rules:
  - {{id: index, allow: [network], hosts: ["{host}:{port}"], methods: [GET], paths: ["/simple/**"]}}
  - {{id: net-unlisted, ask: [network], hosts: ["*.other.example"], who: {{any: [owner]}}, expires: 1s}}
"""
FETCH = """\
import urllib.error, urllib.request
for url in open("urls.txt").read().split():
    try:
        print(urllib.request.urlopen(url).read().decode())
    except urllib.error.URLError as error:
        print(error, error.read().decode() if hasattr(error, "read") else "")
"""


def transcript(path: Path, command: str) -> None:
    answers = [("shell", {"command": command}), ("finish", {"status": "success", "summary": "fetched"})]
    lines: list[dict[str, object]] = [{"kind": "transcript", "version": 1, "model": "test", "note": "test"}]
    lines += [
        {
            "kind": "answer",
            "content": "",
            "tool_calls": [{"id": "call_0", "name": name, "arguments": arguments}],
            "usage": {"input": 1, "output": 1},
        }
        for name, arguments in answers
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


async def types(person: Person, *words: str, **more: str) -> list[dict[str, object]]:
    process = await asyncio.create_subprocess_exec(
        *person.command(*words),
        env=person.environment | more,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 0, (output, complaint)
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.sandbox
async def test_a_run_reaches_what_its_profile_opens_and_every_step_is_an_entry(person: Person, tmp_path: Path) -> None:
    outside = RunAuthority.create("outside")
    (tmp_path / "company.pem").write_bytes(outside.certificate_pem)
    (person.repository / "fetch.py").write_text(FETCH)
    company = EgressProxy(FakeGatekeeper({HOST: opened()}), resolver=Everywhere())
    seen: list[bytes] = []
    pages = {"/simple/": b"the index", "/admin": b"never"}
    async with server(site(pages, seen=seen), tls=outside.server_context(HOST)) as target, serving(company) as upstream:
        settings = {"upstream": f"http://127.0.0.1:{upstream}", "ca_files": [str(tmp_path / "company.pem")]}
        person.profile.write_text(PROFILE.format(host=HOST, port=target))
        base = f"https://{HOST}:{target}"
        # Not in the command's text, where the card would see them: what leaves is the proxy's business.
        (person.repository / "urls.txt").write_text(f"{base}/simple/ {base}/admin https://169.254.169.254/")
        git(person.repository, "add", "-A")
        git(person.repository, "commit", "-q", "-m", "fetch")
        transcript(person.transcript, "python3 fetch.py 2>&1")
        settled = {"RINGFENCE_EGRESS": json.dumps(settings), "INDEX_TOKEN": TOKEN}
        records = await types(person, *person.run_words(), **settled)
    said = json.dumps(records)
    assert "the index" in said, said
    assert "never" not in json.dumps([record for record in records if record.get("type") == "output"])
    assert [TOKEN in head.decode() for head in seen] == [True]
    entries = [
        record
        for record in await types(person, "audit", "query", "--limit", "200", "--json")
        if str(record.get("kind", "")).startswith("egress")
    ]
    told = [(entry["kind"], entry["data"]["host"], entry["data"].get("path")) for entry in entries]  # type: ignore[index,attr-defined]
    kinds = [entry["kind"] for entry in entries]
    assert ("egress.opened", HOST, "/simple/") in told, told
    assert ("egress.refused", HOST, "/admin") in told, told
    assert ("egress.refused", "169.254.169.254", "") in told, told
    assert kinds.count("egress.closed") == kinds.count("egress.opened") >= 2
    for path in person.home.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
