"""`soma cache`: every command on a real directory, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from soma.cli import main
from soma.store import Cache, Made, combine, digest


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of three entries, the default one; used three days, an hour and ten minutes ago."""
    monkeypatch.setenv("SOMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "140")
    cache = Cache(memory_bytes=0)
    for name, value, ago in [("old", np.zeros(100_000), 3 * 86400), ("mid", np.ones(50_000), 3700), ("new", [1], 600)]:
        cache.store(combine(name), value, digest(value), Made(f"app.[{name}].fit@x", summary=f"of {name}"))
        used = time.time() - ago
        record = tmp_path / "cache" / "actions" / combine(name)[:2] / combine(name)
        os.utime(record, (used, used))
    return tmp_path / "cache"


def soma(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(main, ["cache", *arguments], **options)


def blob_of(path: Path, value: Any) -> Path:
    return path / "blobs" / digest(value)[:2] / digest(value)


def left() -> set[str]:
    done = soma("stats", "--json")
    return {entry["title"][5:8] for entry in json.loads(done.output)["entries"]}


def test_stats(path: Path) -> None:
    done = soma("stats")
    assert done.exit_code == 0
    first, *table = done.output.splitlines()
    assert first == f"{path}: 3 entries (0 pinned), 3 values, 1 MiB"
    assert [line.split()[1] for line in table[1:]] == [f"app.[{name}].fit@x" for name in ("new", "mid", "old")]
    small, middle, large = (blob_of(path, value).stat().st_size for value in ([1], np.ones(50_000), np.zeros(100_000)))
    assert [" ".join(line.split()[2:]) for line in table[1:]] == [
        f"of new 10 min ago {small} B", f"of mid 62 min ago {middle / 1024:.0f} KiB", f"of old 3 d ago {large / 1024:.0f} KiB"]
    assert [combine(name)[:12] for name in ("new", "mid", "old")] == [line.split()[0] for line in table[1:]]


def test_stats_as_data(path: Path) -> None:
    done = soma("stats", "--json", "--path", str(path))
    found = json.loads(done.output)
    assert (found["path"], found["values"], found["broken"], found["unnamed"]) == (str(path), 3, [], 0)
    assert found["bytes"] == sum(entry["bytes"] for entry in found["entries"]) > 1_200_000
    newest = found["entries"][0]
    assert (newest["key"], newest["digest"], newest["summary"], newest["pinned"]) == (combine("new"), digest([1]), "of new", False)


def test_stats_says_what_nobody_finds(path: Path) -> None:
    os.unlink(blob_of(path, [1]))
    os.unlink(path / "actions" / combine("mid")[:2] / combine("mid"))
    assert "1 values without an entry, 1 entries without a value; `soma cache gc` removes them" in soma("stats").output
    assert soma("gc").output.startswith("removed 1 entries and 1 values, 391 KiB")


def test_an_empty_cache(tmp_path: Path) -> None:
    Cache(path=tmp_path, memory_bytes=0)
    done = soma("stats", "--path", str(tmp_path))
    assert done.output == f"{tmp_path}: 0 entries (0 pinned), 0 values, 0 B\n"


@pytest.mark.parametrize(("options", "stay"), [
    ([], {"old", "mid", "new"}), (["--max-size", "1MB"], {"mid", "new"}), (["--max-size", "500KiB"], {"mid", "new"}),
    (["--max-size", "0.3 M"], {"new"}), (["--max-size", "100"], set()), (["--max-size", "1TB"], {"old", "mid", "new"}),
    (["--older-than", "2d"], {"mid", "new"}), (["--older-than", "1w"], {"old", "mid", "new"}), (["--older-than", "30m"], {"new"}),
    (["--older-than", "1h"], {"new"}), (["--older-than", "1.5h"], {"mid", "new"}), (["--older-than", "0s"], set()),
    (["--max-size", "10GB", "--older-than", "2d"], {"mid", "new"}),
])
def test_gc(path: Path, options: list[str], stay: set[str]) -> None:
    done = soma("gc", *options)
    assert done.exit_code == 0
    assert left() == stay
    assert done.output.startswith(f"removed {3 - len(stay)} entries and {3 - len(stay)} values, ")


@pytest.mark.parametrize(("options", "said"), [
    (["--max-size", "12parsecs"], "'12parsecs' is no size: a number with KB"), (["--max-size", "-1GB"], "is no size"),
    (["--older-than", "30"], "'30' is no age: a number with s, m, h, d or w, e.g. 30d"), (["--older-than", "yesterday"], "is no age"),
])
def test_what_is_no_size_and_no_age(path: Path, options: list[str], said: str) -> None:
    done = soma("gc", *options)
    assert done.exit_code == 2 and said in " ".join(done.output.split())
    assert left() == {"old", "mid", "new"}


def test_pins(path: Path) -> None:
    key = combine("old")
    assert soma("pin", key[:10]).output == f"pinned {key}\n"
    assert "pinned" in next(line for line in soma("stats").output.splitlines() if line.startswith(key[:12]))
    soma("gc", "--max-size", "1")
    assert left() == {"old"}
    soma("clear", "--yes")
    assert left() == {"old"}
    assert soma("unpin", key[:10]).output == f"unpinned {key}\n"
    soma("clear", "--yes")
    assert left() == set()


@pytest.mark.parametrize("command", [["pin", "zzz"], ["unpin", "zzz"], ["pin", ""]])
def test_a_key_that_names_nothing_or_too_much_is_one_line(path: Path, command: list[str]) -> None:
    done = soma(*command)
    assert done.exit_code == 1
    assert done.output.startswith("Error: ") and done.output.count("\n") == 1


def test_verify(path: Path) -> None:
    done = soma("verify")
    assert (done.exit_code, done.output) == (0, "checked 3 values, 1 MiB\n")
    blob = blob_of(path, [1])
    blob.write_bytes(blob.read_bytes()[:-1])
    damage = f"checked 3 values, 1 MiB\ndamaged: value {digest([1])}\ndamaged: entry {combine('new')}\n"
    done = soma("verify", "--no-repair")
    assert (done.exit_code, done.output) == (1, damage + "nothing was removed\n")
    done = soma("verify")
    assert (done.exit_code, done.output) == (1, damage + "removed; these values will be made again\n")
    assert soma("verify").exit_code == 0 and left() == {"old", "mid"}


def test_clear_asks(path: Path) -> None:
    done = soma("clear", input="n\n")
    assert done.exit_code == 1 and f"Remove all but the pinned entries of {path}? [y/N]" in done.output and len(left()) == 3
    soma("pin", combine("old"))
    done = soma("clear", "--all", input="y\n")
    assert done.exit_code == 0 and f"Remove all entries of {path}?" in done.output and left() == set()


@pytest.mark.parametrize("command", [["stats"], ["stats", "--json"], ["gc"], ["verify"], ["clear", "--yes"], ["pin", "a"], ["unpin", "a"]])
def test_no_cache_is_one_line_and_none_is_made(tmp_path: Path, command: list[str]) -> None:
    done = soma(*command, "--path", str(tmp_path / "none"))
    assert (done.exit_code, done.output) == (1, f"Error: there is no cache at {tmp_path}/none\n")
    assert not (tmp_path / "none").exists()


def test_an_unsafe_cache_is_one_line(path: Path) -> None:
    path.chmod(0o777)
    done = soma("stats")
    assert done.exit_code == 1 and done.output.startswith(f"Error: others may write to the cache at {path}")
    path.chmod(0o700)


def test_help_loads_no_store() -> None:
    program = ("import sys\nfrom soma.cli import main\ntry: main(['cache', '--help'])\nexcept SystemExit: pass\n"
               "print(sorted({'numpy', 'blake3', 'rich', 'soma.store', 'soma.transport'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(word in done.stdout for word in ("stats", "gc", "pin", "unpin", "verify", "clear"))
