"""docs/states.md is the table of the code, not a memory of it."""

from pathlib import Path

from soma.actors.lifecycle import to_markdown

PAGE = Path(__file__).parents[3] / "docs" / "states.md"


def test_the_page_is_generated() -> None:
    assert PAGE.read_text(encoding="utf-8") == to_markdown(), "python -m soma.actors.lifecycle > docs/states.md"
