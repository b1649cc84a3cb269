"""Real tools, unchanged, through the proxy: only the environment that a sandbox gets tells them about it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ringfence_sandbox.contract import EgressVerdict
from ringfence_sandbox.egress import EgressProxy, RunAuthority
from tests.fakes.egress import Everywhere, FakeGatekeeper, answering, command, opened, server, serving, site, trusting
from tests.integration.egress.conftest import Tools

HOST = "packages.example"
PIP = (sys.executable, "-m", "pip", "--isolated", "--no-cache-dir", "--disable-pip-version-check", "download", "tiny")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def wheel() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("tiny/__init__.py", "")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return data.getvalue()


def npm_package() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        text = json.dumps({"name": "tiny", "version": "1.0.0"}).encode()
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return data.getvalue()


async def test_pip_downloads_through_the_proxy(outside: RunAuthority, tools: Tools, tmp_path: Path) -> None:
    pages = {
        "/simple/tiny/": b'<a href="/files/tiny-1.0-py3-none-any.whl">tiny-1.0-py3-none-any.whl</a>',
        "/files/tiny-1.0-py3-none-any.whl": wheel(),
    }
    gatekeeper = FakeGatekeeper({HOST: opened()})
    proxy = EgressProxy(gatekeeper, resolver=Everywhere())
    async with server(site(pages), tls=outside.server_context(HOST)) as target, serving(proxy) as port:
        code, output = await command(
            *PIP, "--no-deps", "--index-url", f"https://{HOST}:{target}/simple/", "-d", str(tmp_path),
            "--cert", tools.environment(port, outside)["PIP_CERT"],
            environment=tools.environment(port, outside),
        )  # fmt: skip
    assert code == 0, output
    assert (tmp_path / "tiny-1.0-py3-none-any.whl").read_bytes()[:2] == b"PK"
    assert {request.host for request in gatekeeper.asked} == {HOST}


async def test_pip_says_what_was_refused(outside: RunAuthority, tools: Tools, tmp_path: Path) -> None:
    proxy = EgressProxy(FakeGatekeeper(), resolver=Everywhere())
    async with serving(proxy) as port:
        code, output = await command(
            *PIP, "-vv", "--retries", "0", "--index-url", f"https://{HOST}/simple/", "-d", str(tmp_path),
            environment=tools.environment(port, outside),
        )  # fmt: skip
    assert code != 0
    assert f"Ringfence: {HOST}:443 is not open" in output
    assert "request_access" in output


@needs("git")
async def test_git_clones_and_names_the_refusal(outside: RunAuthority, tools: Tools, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    identity = ("-c", "user.name=Ana", "-c", "user.email=ana@example.com")
    for argv in (
        ("git", "init", "-q", "-b", "main", str(origin)),
        ("git", "-C", str(origin), *identity, "commit", "-q", "--allow-empty", "-m", "first"),
        ("git", "-C", str(origin), "update-server-info"),
    ):
        assert (await command(*argv))[0] == 0
    store = origin / ".git"
    pages = {f"/r.git/{path.relative_to(store)}": path.read_bytes() for path in store.rglob("*") if path.is_file()}
    proxy = EgressProxy(FakeGatekeeper({HOST: opened()}), resolver=Everywhere())
    async with server(site(pages), tls=outside.server_context(HOST)) as target, serving(proxy) as port:
        variables = tools.environment(port, outside)
        refused = await command(
            "git", "clone", "https://other.example/r.git", str(tmp_path / "x"), environment=variables
        )
        cloned = await command(
            "git", "clone", f"https://{HOST}:{target}/r.git", str(tmp_path / "copy"), environment=variables
        )
    assert refused[0] != 0
    assert "403" in refused[1]
    assert cloned[0] == 0, cloned[1]
    assert (tmp_path / "copy" / ".git" / "HEAD").exists()


@needs("npm")
async def test_npm_installs_through_the_proxy(outside: RunAuthority, tools: Tools, tmp_path: Path) -> None:
    package = npm_package()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode()
    proxy = EgressProxy(FakeGatekeeper({HOST: opened()}), resolver=Everywhere())
    pages = {"/tiny/-/tiny-1.0.0.tgz": package}
    async with server(site(pages), tls=outside.server_context(HOST)) as target, serving(proxy) as port:
        dist = {"tarball": f"https://{HOST}:{target}/tiny/-/tiny-1.0.0.tgz", "integrity": integrity}
        version = {"name": "tiny", "version": "1.0.0", "dist": dist}
        document = {"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        pages["/tiny"] = json.dumps(document).encode()
        project = tmp_path / "project"
        project.mkdir()
        code, output = await command(
            "npm", "install", "--prefix", str(project), "--no-audit", "--no-fund", "tiny",
            "--registry", f"https://{HOST}:{target}/", environment=tools.environment(port, outside),
        )  # fmt: skip
    assert code == 0, output
    assert (project / "node_modules" / "tiny" / "package.json").exists()


PYTHON = "import urllib.request, sys; sys.stdout.write(urllib.request.urlopen(sys.argv[1]).read().decode())"
JAVA = """
import java.net.URI; import java.net.http.*;
public class Fetch {
    public static void main(String[] a) throws Exception {
        var client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        var request = HttpRequest.newBuilder(URI.create(a[0])).build();
        System.out.print(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
"""
GO = """
package main
import ("fmt"; "io"; "net/http"; "os")
func main() {
    answer, err := http.Get(os.Args[1])
    if err != nil { fmt.Println(err); os.Exit(1) }
    body, _ := io.ReadAll(answer.Body)
    fmt.Print(string(body))
}
"""


@pytest.mark.parametrize("is_opened", [False, True], ids=["unopened", "opened"])
@pytest.mark.parametrize("program", ["curl", "wget", "python", "java", "go"])
async def test_a_client_trusts_what_the_environment_says(
    program: str, is_opened: bool, outside: RunAuthority, tools: Tools, tmp_path: Path
) -> None:
    if program != "python" and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    (tmp_path / "Fetch.java").write_text(JAVA)
    (tmp_path / "fetch.go").write_text(GO)
    argv = {
        "curl": ("curl", "-sS"),
        "wget": ("wget", "-qO-"),
        "python": (sys.executable, "-c", PYTHON),
        "java": ("java", str(tmp_path / "Fetch.java")),
        "go": (shutil.which("go") or "go", "run", str(tmp_path / "fetch.go")),
    }[program]
    run = RunAuthority.create("r1")
    gatekeeper = FakeGatekeeper({HOST: EgressVerdict(True, "r", is_private_allowed=True, ends_tls=is_opened)})
    proxy = EgressProxy(gatekeeper, resolver=Everywhere(), ca=run, tls=trusting(outside))
    async with server(answering(b"fetched"), tls=outside.server_context(HOST)) as target, serving(proxy) as port:
        variables = tools.environment(port, run if is_opened else outside)
        variables["GOCACHE"] = str(Path("~/.cache/go-build").expanduser())
        code, output = await command(*argv, f"https://{HOST}:{target}/", environment=variables, timeout_s=240)
    assert code == 0, output
    assert output.endswith("fetched"), output
    assert [r.method for r in gatekeeper.asked] == (["CONNECT", "GET"] if is_opened else ["CONNECT"])
