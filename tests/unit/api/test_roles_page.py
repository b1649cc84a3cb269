from __future__ import annotations

from pathlib import Path

from ringfence.auth.roles import markdown

PAGE = Path(__file__).parents[3] / "docs" / "roles.md"


def test_the_docs_show_the_table_that_the_code_uses() -> None:
    assert markdown() in PAGE.read_text(encoding="utf-8")
