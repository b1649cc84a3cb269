"""The deliverable of a sandbox whose agent would rather there were none: a patch comes, and says what it leaves out."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ringfence_sandbox.contract import Bundle, Exec
from tests.contracts.sandbox.conftest import Box
from tests.contracts.sandbox.repositories import apply, clone

DEEP = 'python3 -c \'import os\nfor _ in range(40):\n  os.mkdir("d"*200); os.chdir("d"*200)\nopen("end","w")\''
LONG = "mkdir git~1; cd git~1; for i in {1..150}; do :> $(printf 'ä%.0s' {1..120})$i; done"
BARS = {
    "a file that its owner may not read": ("chmod 000 app.py new", ""),
    "a folder that its owner may not enter": ("mkdir shut; echo hidden > shut/in; chmod 000 shut", ""),
    "a workspace that its owner may not enter": ("chmod 000 /workspace", ""),
    "an encoding that the content does not have": ("echo '* working-tree-encoding=UTF-16' > .gitattributes", ""),
    "a filter that is not there": ("echo '* filter=none text eol=crlf' > .gitattributes", ""),
    "a name that git takes for its own": ("mkdir git~1; echo x > git~1/config", "git~1/config"),
    "a link that git does not follow": ("ln -s app.py .gitmodules", ".gitmodules"),
    "a path longer than any call takes": (DEEP, "d" * 200),
    "a file larger than any patch": ("truncate -s 1G vast", "vast"),
    "names too long for one frame": (LONG, "git~1/"),
}
AFRESH = """
chmod 755 /workspace; cd /workspace; chmod -R u+rwX [a-z]*; rm -rf [a-z]* .gitm* .gita*
echo 'x = 2' > app.py; echo new > new
"""
MODES = "stat -c %a /workspace; chmod 755 /workspace; cd /workspace; stat -c '%n %a' *"


async def run(box: Box, command: str) -> str:
    action = Exec(box.call(), 1, ("bash", "-c", command), cwd=PurePosixPath("/"))
    return (await box.sandbox.perform(action)).head.decode()


async def test_no_file_of_the_workspace_bars_the_patch(box: Box, bundle: Bundle, tmp_path: Path) -> None:
    for number, (bar, (command, left_out)) in enumerate(BARS.items()):
        await run(box, f"{AFRESH}\n{command}")
        patch = await box.sandbox.diff()
        target = clone(bundle, tmp_path / str(number))
        apply(patch.data, target)
        assert (target / "app.py").read_text() == "x = 2\n", bar
        assert (target / "new").read_text() == "new\n", bar
        assert "app.py" in {file.path for file in await box.sandbox.changed()}, bar
        assert bool(patch.left_out) == bool(left_out), (bar, patch.left_out)
        named = [path for path in patch.left_out if not path.startswith("and ")]
        assert all(path.startswith(left_out) for path in named), bar
        assert patch.left_out[len(named) :] == (("and 51 more",) if command == LONG else ()), bar


async def test_the_look_at_what_its_owner_closed_leaves_it_closed(box: Box) -> None:
    await run(box, f"{AFRESH}\nmkdir shut; chmod 000 app.py shut /workspace")
    await box.sandbox.diff()
    assert await run(box, MODES) == "0\napp.py 0\nnew 644\nshut 0\n"


async def test_no_file_can_call_itself_binary_to_hide_its_change(box: Box) -> None:
    await run(box, f"{AFRESH}\necho '* binary' > .gitattributes")
    assert b"+x = 2" in (await box.sandbox.diff()).data
