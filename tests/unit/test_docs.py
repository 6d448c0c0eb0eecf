"""The pages of docs/ say what the code does: every message, error, limit and link in them is checked against it."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from soma import errors
from soma.config import LIMITS, PROTOCOL_VERSION
from soma.transport.messages import catalogue

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def make_protocol() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_protocol", ROOT / "docs" / "make_protocol.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_the_table_of_messages_is_up_to_date() -> None:
    page = text("protocol.md")
    assert make_protocol().filled(page) == page, "run `python docs/make_protocol.py`"


def test_every_message_has_a_direction() -> None:
    assert set(make_protocol().DIRECTION) == {cls.__name__ for _, cls in catalogue()}


def test_the_protocol_page_names_version_and_limits() -> None:
    page = text("protocol.md")
    assert f"version is {PROTOCOL_VERSION}" in page
    for said in (f"{LIMITS.header_bytes // 1024} KiB", f"{LIMITS.header_depth} levels", f"{LIMITS.parts:,} frames",
                 f"{LIMITS.message_bytes >> 30} GiB", f"{LIMITS.inline_bytes // 1024} KiB"):
        assert said in page, said


def test_the_failures_page_names_every_error() -> None:
    page = text("failures.md")
    names = [name for name, thing in vars(errors).items() if inspect.isclass(thing) and issubclass(thing, errors.SomaError)]
    assert [name for name in names if name not in page and name not in ("SomaError", "ClusterError")] == []


def test_the_failures_page_names_only_errors_that_exist() -> None:
    named = set(re.findall(r"`(\w+(?:Error|Exceeded))\b", text("failures.md")))
    builtin = {"ValueError", "TypeError", "AttributeError", "TimeoutError", "MemoryError", "RuntimeError", "ModuleNotFoundError"}
    assert named - builtin <= set(vars(errors))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [t for t in targets if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:soma|tests|docs|benchmarks|examples)/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8"))
    assert [n for n in named if not (ROOT / n).exists()] == []
