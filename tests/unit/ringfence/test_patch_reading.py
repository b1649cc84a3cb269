from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.patch_reading import Change, PatchRefused, read_patch

OID_A, OID_B = b"a" * 40, b"b" * 40
PLAIN = (
    b"diff --git a/x.py b/x.py\nindex " + OID_A + b".." + OID_B + b" 100644\n"
    b"--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,2 @@ def f():\n a\n-b\n+c\n"
)


@pytest.mark.parametrize(
    "patch",
    [
        PLAIN.removesuffix(b"\n"),
        b"From: me\n" + PLAIN,
        PLAIN + b"trailing words\n",
        PLAIN + PLAIN,
        PLAIN.replace(b"b/x.py\nindex", b"b/y.py\nindex"),
        PLAIN.replace(b"+++ b/x.py", b"+++ b/y.py"),
        PLAIN.replace(b"--- a/x.py", b"--- /dev/null"),
        PLAIN.replace(b"@@ -1,2 +1,2 @@", b"@@ -1,2 +1,3 @@"),
        PLAIN.replace(b"@@ -1,2 +1,2 @@", b"@@ -1,1 +1,2 @@"),
        PLAIN.replace(b"index " + OID_A, b"index " + OID_A[:7]),
        PLAIN.replace(b" 100644", b" 104755"),
        PLAIN.replace(b"index ", b"old mode 100644\nindex "),
        PLAIN.replace(b"index ", b"new file mode 100644\ndeleted file mode 100644\nindex "),
        PLAIN.replace(b"index ", b"rename from x.py\nrename to ../y\nindex "),
        b'diff --git "a/x b/x"\n',
        b'diff --git "a/\\q" "b/\\q"\nnew file mode 100644\n',
        b"diff --git a/x b/x\nGIT binary patch\nliteral 3\nnot base85 \x00\n\n",
        b"diff --git a/x b/x\n",
    ],
)
def test_a_patch_in_any_other_form_is_refused(patch: bytes) -> None:
    with pytest.raises(PatchRefused):
        read_patch(patch)


def test_a_second_file_hidden_in_a_hunk_is_content_and_nothing_else() -> None:
    hidden = PLAIN.replace(b"+c\n", b"+diff --git a/.git/config b/.git/config\n")
    (change,) = read_patch(hidden)
    assert change.name == "x.py"


def test_an_empty_patch_changes_nothing() -> None:
    assert read_patch(b"") == ()


def test_a_plain_change_is_read_with_its_lines() -> None:
    (change,) = read_patch(PLAIN)
    assert (change.name, change.change, change.added, change.removed) == ("x.py", Change.MODIFIED, 1, 1)
    assert change.hunks[0].lines == (b" a", b"-b", b"+c")


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    _read_or_refuse(data)


@given(st.data())
def test_any_edit_of_a_good_patch_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PLAIN)))
    until = data.draw(st.integers(at, len(PLAIN)))
    _read_or_refuse(PLAIN[:at] + data.draw(st.binary(max_size=12)) + PLAIN[until:])


def _read_or_refuse(data: bytes) -> None:
    try:
        changes = read_patch(data)
    except PatchRefused:
        return
    assert bool(changes) == bool(data)
