"""More programs, tried by `make test-all`: too slow or too much alike for every day."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tests.integration.cli.repositories import commit_all, git
from tests.integration.programs.shapes import CALC, FIX, TEST, Shape, in_python


def _bare(folder: Path) -> Path:
    git(folder.parent, "clone", "-q", "--bare", str(folder), "bare.git")
    return folder.parent / "bare.git"


def _shared(folder: Path) -> Path:
    git(folder.parent, "clone", "-q", "--shared", str(folder), "borrower")
    return folder.parent / "borrower"


def _packed(folder: Path) -> Path:
    git(folder, "tag", "-a", "v1", "-m", "v1")
    git(folder, "gc", "-q", "--prune=now")
    return folder


def _below(folder: Path) -> Path:
    return folder / "deep" / "er"


def _large(folder: Path) -> Path:
    for number in range(3000):
        path = folder / "data" / str(number % 50) / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(16).hex().encode() * 60)
    commit_all(folder)
    return folder


def _sparse(folder: Path) -> Path:
    git(folder, "sparse-checkout", "set", "--cone", "kept")
    return folder


def _odd_names(folder: Path) -> Path:
    for name in (
        b"new\nline",
        b"tab\t",
        b'quo"te',
        b"back\\slash",
        b"-dash",
        b"trailing ",
        b"\xff\xfe.bin",
        b"e\xcc\x81",
    ):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"x\n")
    commit_all(folder)
    return folder


GO_TEST = """\
package calc

import "testing"

func TestAdd(t *testing.T) {
	if Add(2, 2) != 4 {
		t.Fatal("no")
	}
}
"""
JAVA = """\
class Calc {
    static int add(int a, int b) { return a - b; }
    public static void main(String[] x) { if (add(2, 2) != 4) System.exit(1); }
}
"""
SOCKETS = """\
import http.server, multiprocessing, os, sqlite3, socket, subprocess, tempfile, threading, unittest, urllib.request
from zoneinfo import ZoneInfo

from calc import add


def double(x):
    return 2 * x


class T(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(2, 2), 4)

    def test_server(self):
        server = http.server.HTTPServer(("localhost", 0), http.server.SimpleHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for host in ("localhost", "127.0.0.1"):
            with urllib.request.urlopen(f"http://{host}:{server.server_port}/calc.py") as found:
                self.assertEqual(found.status, 200)
        server.shutdown()
        server.server_close()

    def test_pool(self):
        with multiprocessing.Pool(2) as pool:
            self.assertEqual(pool.map(double, [1, 2]), [2, 4])

    def test_machine(self):
        import getpass, pwd
        self.assertTrue(getpass.getuser())
        self.assertTrue(pwd.getpwuid(os.getuid()).pw_dir)
        self.assertTrue(ZoneInfo("Europe/Berlin"))
        with tempfile.TemporaryDirectory() as folder:
            left = socket.socket(socket.AF_UNIX)
            left.bind(folder + "/s")
            left.close()
            sqlite3.connect(folder + "/x.db").execute("create table t (x)")
        self.assertEqual(os.environ["HOME"], os.path.expanduser("~"))

    def test_git(self):
        with tempfile.TemporaryDirectory() as folder:
            git = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@example.org"]
            subprocess.run([*git, "init"], check=True, capture_output=True)
            subprocess.run([*git, "commit", "--allow-empty", "-m", "x"], check=True, capture_output=True)
        subprocess.run(["git", "log", "-1"], check=True, capture_output=True)
"""

RUST = "pub fn add(a: i64, b: i64) -> i64 { a - b }\n\n#[test]\nfn adds() { assert_eq!(add(2, 2), 4); }\n"
CMAKE = """\
cmake_minimum_required(VERSION 3.16)
project(calc CXX)
enable_testing()
add_executable(check check.cpp)
add_test(NAME check COMMAND check)
"""
CPP = '#include "calc.hpp"\nint main() { return add(2, 2) == 4 ? 0 : 1; }\n'
DJANGOESQUE = """\
import unittest
from pathlib import Path

from app import settings
from app.views import total


class T(unittest.TestCase):
    def test_total(self):
        self.assertEqual(total([1, 2, 3]), 6)

    def test_empty(self):
        self.assertEqual(total([]), 0)

    def test_settings(self):
        self.assertTrue((Path(settings.__file__).parent / "templates" / "index.html").exists())
"""

MORE: Sequence[Shape] = (
    Shape(
        "Rust with cargo",
        {
            "Cargo.toml": '[package]\nname = "calc"\nversion = "0.1.0"\nedition = "2021"\n',
            "src/lib.rs": RUST,
            ".gitignore": "/target\nCargo.lock\n",
        },
        "cargo test --offline -q",
        [[("edit_file", {"path": "src/lib.rs", "old": "a - b", "new": "a + b"})]],
    ),
    Shape(
        "C++ with cmake",
        {
            "CMakeLists.txt": CMAKE,
            "calc.hpp": "inline int add(int a, int b) { return a - b; }\n",
            "check.cpp": CPP,
            ".gitignore": "/build/\n",
        },
        "cmake -S . -B build > /dev/null && cmake --build build > /dev/null && ctest --test-dir build",
        [[("edit_file", {"path": "calc.hpp", "old": "a - b", "new": "a + b"})]],
    ),
    Shape(
        "three failing tests in two files",
        {
            "app/__init__.py": "",
            "app/settings.py": "DEBUG = True\n",
            "app/views.py": (
                "def total(items):\n    result = items[0]\n    for i in items:\n        result += i\n    return result"
                "\n"
            ),
            "tests/__init__.py": "",
            "tests/test_app.py": DJANGOESQUE,
        },
        "python3 -m unittest discover -q",
        [
            [("read_file", {"path": "app/views.py"}), ("read_file", {"path": "tests/test_app.py"})],
            [("write_file", {"path": "app/views.py", "content": "def total(items):\n    return sum(items)\n"})],
            [("write_file", {"path": "app/templates/index.html", "content": "<h1>x</h1>\n"})],
        ],
        expects="new file mode 100644",
    ),
    Shape(
        "Go where it is installed",
        {
            "go.mod": "module example.org/calc\n\ngo 1.20\n",
            "calc.go": "package calc\n\nfunc Add(a, b int) int { return a - b }\n",
            "calc_test.go": GO_TEST,
        },
        "go test ./...",
        [[("edit_file", {"path": "calc.go", "old": "a - b", "new": "a + b"})]],
    ),
    in_python("plain unittest"),
    in_python("below the top", files={"deep/er/x.txt": "", "calc.py": CALC, "test_calc.py": TEST}, prepare=_below),
    in_python("bare", prepare=_bare),
    in_python("borrowed objects", prepare=_shared),
    in_python("packed refs and tags", prepare=_packed),
    in_python("large", prepare=_large),
    in_python("sha256", git=("--object-format=sha256",)),
    in_python(
        "sparse", files={"kept/x": "x\n", "left/y": "y\n", "calc.py": CALC, "test_calc.py": TEST}, prepare=_sparse
    ),
    in_python("odd names", prepare=_odd_names),
    in_python(
        "eol attributes",
        files={".gitattributes": "* text=auto eol=crlf\n*.bin -text\n", "calc.py": CALC, "test_calc.py": TEST},
    ),
    in_python(
        "filters",
        files={
            ".gitattributes": "*.py filter=lfs diff=lfs merge=lfs ident working-tree-encoding=UTF-8\n",
            "calc.py": CALC,
            "test_calc.py": TEST,
        },
    ),
    in_python("what a test needs of a machine", files={"calc.py": CALC, "test_calc.py": SOCKETS}),
    in_python(
        "a long line and a large file",
        files={"calc.py": CALC + "BIG = '" + "x" * 1_500_000 + "'\n", "test_calc.py": TEST},
    ),
    in_python("tracked although ignored", files={".gitignore": "calc.py\n", "calc.py": CALC, "test_calc.py": TEST}),
    in_python(
        "nothing committed but a readme",
        files={"README": "x\n"},
        test="python3 -c 'import calc; assert calc.add(2,2) == 4'",
        fix=[[("write_file", {"path": "calc.py", "content": CALC.replace("-", "+")})]],
    ),
    in_python(
        "a file becomes a link",
        files={"calc.py": CALC, "impl.py": CALC.replace("-", "+"), "test_calc.py": TEST},
        fix=[[("shell", {"command": "ln -sf impl.py calc.py"})]],
        expects="120000",
    ),
    in_python(
        "a nested repository is made",
        fix=[[FIX, ("shell", {"command": "git init -q nested && echo x > nested/x && git -C nested add x"})]],
    ),
    in_python(
        "the agent commits",
        fix=[
            [
                FIX,
                (
                    "shell",
                    {"command": "git add -A && git -c user.name=a -c user.email=a@example.org commit -qm x"},
                ),
            ]
        ],
    ),
    in_python("the agent removes .git", fix=[[FIX, ("shell", {"command": "rm -rf .git"})]]),
    in_python(
        "many calls",
        fix=[
            [
                ("read_file", {"path": "calc.py"}),
                ("search", {"pattern": "def add"}),
                FIX,
                ("read_file", {"path": "calc.py", "start_line": 1, "end_line": 2}),
                ("list_files", {"path": "."}),
            ]
        ],
    ),
    Shape(
        "perl",
        {
            "calc.pl": "sub add { return $_[0] - $_[1] } 1;\n",
            "t/a.t": "use Test::More tests => 1; require './calc.pl'; is(add(2,2), 4);\n",
        },
        "prove t",
        [[("edit_file", {"path": "calc.pl", "old": "$_[0] - ", "new": "$_[0] + "})]],
    ),
    Shape(
        "java",
        {"Calc.java": JAVA},
        "java Calc.java",
        [[("edit_file", {"path": "Calc.java", "old": "a - b", "new": "a + b"})]],
    ),
    Shape(
        "pytest by name",
        {"calc.py": CALC, "test_x.py": "from calc import add\ndef test(): assert add(2,2)==4\n"},
        "pytest -q",
        [[FIX]],
    ),
    Shape(
        "a go command with cgo and race-free build",
        {
            "go.mod": "module example.org/calc\n\ngo 1.20\n",
            "cmd/calc/main.go": 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println(2 - 2) }\n',
            "check.sh": 'test "$(go run ./cmd/calc)" = 4\n',
        },
        "sh check.sh",
        [[("edit_file", {"path": "cmd/calc/main.go", "old": "2 - 2", "new": "2 + 2"})]],
    ),
    Shape(
        "npm test",
        {
            "package.json": '{"name": "calc", "scripts": {"test": "node test.js"}}\n',
            "calc.js": "exports.add = (a, b) => a - b;\n",
            "test.js": "require('assert').equal(require('./calc').add(2,2), 4)\n",
        },
        "npm test --silent",
        [[("edit_file", {"path": "calc.js", "old": "a - b", "new": "a + b"})]],
    ),
)
