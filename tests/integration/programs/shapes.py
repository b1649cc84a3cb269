"""Small real programs, each with a failing test, in the shapes that repositories come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.integration.cli.repositories import commit_all, git, write_files
from tests.integration.programs.server import Call, Turn

CALC = "def add(a, b):\n    return a - b\n"
TEST = """\
import unittest

from calc import add


class AddTest(unittest.TestCase):
    def test_two_and_two_are_four(self):
        self.assertEqual(add(2, 2), 4)
"""
UNITTEST = "python3 -m unittest"
FIX: Call = ("edit_file", {"path": "calc.py", "old": "a - b", "new": "a + b"})


def _as_it_is(folder: Path) -> Path:
    return folder


@dataclass(frozen=True)
class Shape:
    """A program. `prepare` makes of the committed repository what a person would name with --repo."""

    name: str
    files: Mapping[str, str | bytes]
    test: str
    fix: Sequence[Sequence[Call]]
    prepare: Callable[[Path], Path] = _as_it_is
    folder: str = "project"
    git: Sequence[str] = ()
    expects: str = ""
    """What the patch must say."""

    def make(self, parent: Path) -> Path:
        folder = parent / self.folder
        folder.mkdir(parents=True)
        git(folder, "init", "-q", "-b", "main", *self.git)
        write_files(folder, self.files)
        commit_all(folder)
        return self.prepare(folder)

    def cloned(self, named: Path) -> Path:
        """What a clean checkout is cloned from: the top of what the person names."""
        return next(
            folder for folder in (named, *named.parents) if list(folder.glob("HEAD")) or (folder / ".git").exists()
        )

    def turns(self) -> list[Turn]:
        look = Turn([("list_files", {}), counted(self.test)], "I look around and run the tests.")
        prove = Turn([counted(self.test)], None)
        count: Call = ("shell", {"command": "wc -l < /home/agent/ran"})
        done: Call = ("finish", {"status": "success", "summary": f"{self.name}: mended; the tests pass"})
        return [look, *(Turn(calls) for calls in self.fix), prove, Turn([count]), Turn([done])]

    @property
    def command_count(self) -> int:
        """How many commands of `turns` leave a line in the sandbox's own count."""
        return sum("/home/agent/ran" in str(arguments) for turn in self.turns()[:-2] for _, arguments in turn.calls)


def counted(command: str) -> Call:
    """A shell call that leaves a line in a file of the sandbox, which nothing else writes."""
    return ("shell", {"command": f"echo x >> /home/agent/ran; {command}"})


def in_python(name: str, **more: object) -> Shape:
    files = {"calc.py": CALC, "test_calc.py": TEST}
    given: dict[str, object] = {"files": files, "test": UNITTEST, "fix": [[FIX]], **more}
    return Shape(name, **given)  # type: ignore[arg-type]  # fields of Shape by name


def _detached(folder: Path) -> Path:
    git(folder, "checkout", "-q", "--detach")
    return folder


def _worktree(folder: Path) -> Path:
    git(folder, "worktree", "add", "-q", "-b", "side", "../linked tree")
    return folder.parent / "linked tree"


def _shallow(folder: Path) -> Path:
    (folder / "README").write_text("second\n")
    commit_all(folder)
    (folder / "README").write_text("third\n")
    commit_all(folder)
    git(folder.parent, "clone", "-q", "--depth", "1", f"file://{folder}", "shallow")
    return folder.parent / "shallow"


def _submodule(folder: Path) -> Path:
    other = folder.parent / "other"
    other.mkdir()
    git(other, "init", "-q", "-b", "main")
    write_files(other, {"lib.py": "x = 1\n"})
    commit_all(other)
    git(folder, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "vendor/other")
    commit_all(folder)
    return folder


def _links(folder: Path) -> Path:
    (folder / "current.py").symlink_to("calc.py")
    (folder / "nowhere").symlink_to("absent/file")
    (folder / "etc").symlink_to("/etc")
    commit_all(folder)
    return folder


NODE_TEST = """\
import test from 'node:test';
import assert from 'node:assert';
import { add } from './calc.js';
test('add', () => assert.equal(add(2, 2), 4));
"""
MAKEFILE = """\
CFLAGS ?= -O0
test: test_calc
\t./test_calc
test_calc: test_calc.c calc.c
\t$(CC) $(CFLAGS) -o $@ test_calc.c calc.c
"""

SUITE: Sequence[Shape] = (
    Shape(
        "a package in src, under pytest",
        {
            "src/shop/__init__.py": "",
            "src/shop/calc.py": CALC,
            "tests/test_calc.py": "from shop.calc import add\n\n\ndef test_add():\n    assert add(2, 2) == 4\n",
            "conftest.py": "import sys\n\nsys.path.insert(0, 'src')\n",
            ".gitignore": "__pycache__/\n.pytest_cache/\n",
        },
        "python3 -m pytest -q -p no:cacheprovider",
        [
            [("read_file", {"path": "src/shop/calc.py"})],
            [("edit_file", {"path": "src/shop/calc.py", "old": "a - b", "new": "a + b"})],
        ],
    ),
    Shape(
        "node's own test runner",
        {
            "package.json": '{"name": "calc", "type": "module", "scripts": {"test": "node --test"}}\n',
            "calc.js": "export const add = (a, b) => a - b;\n",
            "calc.test.js": NODE_TEST,
        },
        "node --test",
        [[("write_file", {"path": "calc.js", "content": "export const add = (a, b) => a + b;\n"})]],
    ),
    Shape(
        "C with make",
        {
            "Makefile": MAKEFILE,
            "calc.c": "int add(int a, int b) { return a - b; }\n",
            "test_calc.c": "int add(int, int);\nint main(void) { return add(2, 2) == 4 ? 0 : 1; }\n",
            ".gitignore": "/test_calc\n",
        },
        "make -s test",
        [[("shell", {"command": "sed -i 's/a - b/a + b/' calc.c"})]],
    ),
    Shape(
        "a shell script that must become executable",
        {
            "check.sh": '#!/bin/sh\nset -e\n[ "$(./sum.sh 2 2)" = 4 ]\n',
            "sum.sh": "#!/bin/sh\necho $(($1 - $2))\n",
        },
        "sh check.sh",
        [
            [
                ("edit_file", {"path": "sum.sh", "old": "$1 - $2", "new": "$1 + $2"}),
                ("shell", {"command": "chmod +x sum.sh"}),
            ]
        ],
        expects="new mode 100755",
    ),
    in_python(
        "a path with spaces, rewritten in place at once",
        folder="my project's (ü) folder",
        fix=[[("shell", {"command": "sed 's/a - b/a + b/' calc.py > /tmp/x && cat /tmp/x > calc.py"})]],
    ),
    Shape(
        "names with spaces and letters of all kinds",
        {
            "größe/my calc.py": CALC,
            "test_all.py": (
                "import importlib.util, unittest\n\n"
                "spec = importlib.util.spec_from_file_location('c', 'größe/my calc.py')\n"
                "calc = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(calc)\n\n\n"
                "class T(unittest.TestCase):\n    def test_add(self):\n        self.assertEqual(calc.add(2, 2), 4)\n"
            ),
        },
        UNITTEST,
        [[("edit_file", {"path": "größe/my calc.py", "old": "a - b", "new": "a + b"})]],
    ),
    in_python(
        "CRLF, no newline at the end",
        files={"calc.py": CALC.replace("\n", "\r\n")[:-2], "test_calc.py": TEST.replace("\n", "\r\n")},
    ),
    in_python(
        "text that is no UTF-8",
        files={"calc.py": b"# coding: latin-1\n# gr\xfc\xdfe\n" + CALC.encode(), "test_calc.py": TEST},
    ),
    in_python(
        "files renamed, deleted and binary",
        files={
            "calc.py": CALC,
            "test_calc.py": TEST.replace("from calc", "from mended.calc"),
            "mended": "a file where a folder will be",
            "old.bin": bytes(range(256)) * 8,
        },
        fix=[
            [
                ("shell", {"command": "rm mended old.bin && mkdir mended && touch mended/__init__.py"}),
                ("shell", {"command": "mv calc.py mended/"}),
                ("edit_file", {"path": "mended/calc.py", "old": "a - b", "new": "a + b"}),
                ("shell", {"command": "head -c 999 /dev/urandom > mended/new.bin"}),
            ]
        ],
        expects="GIT binary patch",
    ),
    in_python("a linked worktree", prepare=_worktree),
    in_python("a shallow clone", prepare=_shallow),
    in_python("a detached HEAD with a submodule", prepare=lambda folder: _detached(_submodule(folder))),
    in_python("symbolic links in the repository", prepare=_links),
)
