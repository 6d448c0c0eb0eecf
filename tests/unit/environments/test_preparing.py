"""`runtime_env`: its shape, what travels of it, and what it becomes on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soma.environments import Archive, ArchiveError, check, pack, portable, prepare

WRONG: list[tuple[Any, str]] = [
    ({"pip": ["-e ."]}, "pip: .*option"), ({"pip": 3}, "pip=3"), ({"pip": [3]}, "pip: requirement 3"), ({"conda": "x"}, "'conda'"),
    ({"env_vars": {"a": 1}}, "env_vars: 'a'"), ({"env_vars": ["a"]}, "env_vars"), ({"env_vars": {"a=b": "c"}}, "env_vars: 'a=b'"),
    ({"env_vars": {"a": "\0"}}, "NUL"), ({"env_vars": {"a": "x" * 16_000}}, "at most 16000"), ({"working_dir": 3}, "working_dir=3"),
    (["pip"], "a dict"),
]


def test_a_wrong_shape_is_refused_by_its_key() -> None:
    for given, words in WRONG:
        with pytest.raises((TypeError, ValueError), match=words):
            check(given)


def test_a_right_shape_passes(tmp_path: Path) -> None:
    check(None)
    check({})
    check({"pip": ["six"], "env_vars": {"A": "b"}, "working_dir": tmp_path})
    check({"pip": "requirements.txt"})


def test_what_travels_names_no_file(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("Six\n")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "m.py").write_text("X = 1")
    told = portable({"pip": tmp_path / "r.txt", "working_dir": str(tmp_path / "code"), "env_vars": {"A": "b"}})
    assert told == {"pip": ("six",), "working_dir": pack(tmp_path / "code"), "env_vars": {"A": "b"}}
    assert portable(told) == told and portable({}) == {}


def test_files_are_unpacked_once_for_all(tmp_path: Path) -> None:
    pytest.importorskip("filelock")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "m.py").write_text("X = 1")
    runtime_env = portable({"working_dir": tmp_path / "code", "env_vars": {"A": "b"}})
    one, two = (prepare(runtime_env, tmp_path / "root") for _ in range(2))
    assert one.cwd == two.cwd is not None and (one.cwd / "m.py").read_text() == "X = 1"
    assert (one.python, one.sys_path, one.env_vars) == (None, (str(one.cwd),), {"A": "b"})
    for held in (one, two):
        held.release()
    archive = runtime_env["working_dir"]
    with pytest.raises(ArchiveError, match="hash"):
        prepare({"working_dir": Archive(archive.data + b"\0", archive.hash, 1)}, tmp_path / "root")


def test_nothing_asked_for_is_nothing(tmp_path: Path) -> None:
    got = prepare({}, tmp_path / "root")
    assert (got.python, got.packages, got.cwd, got.leases) == (None, None, None, ()) and not (tmp_path / "root").exists()
