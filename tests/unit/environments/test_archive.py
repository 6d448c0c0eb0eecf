"""Files there and back; and every way out of the directory that we could think of, refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soma.environments import ArchiveError, ArchiveLimits, checked_path, pack, pack_files, unpack

NAMES = st.text(st.sampled_from("abcé-_ 9"), min_size=1, max_size=6).map(lambda s: "x" + s + "x")
FILES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=50), max_size=6).filter(
    lambda files: not any(other.startswith(name + "/") for name in files for other in files))


Member = tuple[str, str, object, bytes]


def archive_of(*members: Member) -> bytes:
    """An archive by hand: (path, kind, size or target, contents) of each member."""
    index = json.dumps([member[:3] for member in members]).encode()
    return b"soma-files-1\n" + len(index).to_bytes(8, "big") + index + b"".join(data for *_, data in members)


def file(name: str, data: bytes = b"x") -> Member:
    return name, "f", len(data), data


def link(name: str, target: str) -> Member:
    return name, "l", target, b""


def contents(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@settings(max_examples=40)
@given(FILES)
def test_files_arrive_as_they_left(files: dict[str, bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as where:
        root, there = Path(where) / "here", Path(where) / "there"
        root.mkdir()
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        packed = pack(root)
        unpack(packed.data, there)
        assert contents(there) == files
        assert pack(there) == packed  # the same files: the same bytes, the same hash


def test_modes_links_and_empty_directories(tmp_path: Path) -> None:
    root = tmp_path / "here"
    (root / "deep" / "empty").mkdir(parents=True)
    (root / "run.sh").write_text("true")
    (root / "run.sh").chmod(0o755)
    (root / "deep" / "up").symlink_to("../run.sh")
    (root / ".git").mkdir()
    (root / ".git" / "secret").write_text("left out")
    names = unpack(pack(root).data, tmp_path / "there")
    assert set(names) == {"run.sh", "deep/up"}
    assert (tmp_path / "there/deep/empty").is_dir() and os.readlink(tmp_path / "there/deep/up") == "../run.sh"
    assert os.access(tmp_path / "there/run.sh", os.X_OK)
    assert (tmp_path / "there/run.sh").stat().st_mode & 0o077 == 0


NAMES_REFUSED = [
    "/etc/x", "../x", "a/../../x", "..", ".", "", "a/..", "a\0b", "a\nb", "a\\b", "\\\\host\\x", "C:x", "c:/x", "NUL", "a/con.txt", "COM1",
    "aux", "lpt9.log", "a.", "a ", "/".join("a" * 40), "a" * 256, "é" * 200, "a\x1b[2Jb",
]


def test_paths_that_must_not_be(tmp_path: Path) -> None:
    for name in NAMES_REFUSED:
        with pytest.raises(ArchiveError, match="path"):
            checked_path(name)
        with pytest.raises(ArchiveError):
            pack_files({name: b""})
        with pytest.raises(ArchiveError):
            unpack(archive_of(file("fine"), file(name)), tmp_path / "there")
        assert contents(tmp_path) == {}


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "/", "~", "C:", "NUL", "a\0"]), min_size=1, max_size=6).map("/".join))
def test_whatever_passes_stays_inside(name: str) -> None:
    try:
        path = checked_path(name)
    except ArchiveError:
        return
    assert os.path.normpath(os.path.join("/root", path)).startswith("/root/")


MEMBERS_REFUSED: list[list[Member]] = [
    [link("l", "/etc/passwd")],
    [link("l", "../x")],
    [link("l", "a/../../x")],
    [link("a/l", "../../x")],
    [link("a/b/d", "../.."), link("a/b/l", "d/..")],
    [link("d", "."), link("l", "d/..")],
    [link("l", "nowhere")],
    [link("l", "l")],
    [link("d", ".."), file("d/x")],
    [file("s"), link("d", "s"), file("d/x")],
    [file("a"), file("a/b")],
    [("h", "h", "x", b"")], [("p", "p", 0, b"")], [("f", "f", -1, b"")], [("f", "f", True, b"x")], [("f", "f", "1", b"x")],
    [("d", "d", 1, b"x")], [("f", "f", 1.0, b"x")], [("f", "f", 2, b"x")], [("f", "f", 0, b"x")], [("f", "f", 10**30, b"x")],
    [file("twice"), file("twice")],
    [file("twice"), file("./twice")],
]


def test_members_that_must_not_be(tmp_path: Path) -> None:
    outside = tmp_path / "x"
    outside.write_text("untouched")
    for members in MEMBERS_REFUSED:
        with pytest.raises(ArchiveError):
            unpack(archive_of(file("fine"), *members), tmp_path / "there")
        assert list((tmp_path / "there").iterdir()) == [] and outside.read_text() == "untouched", members


TARGETS = st.lists(st.sampled_from(["..", ".", "d", "e", "x"]), min_size=1, max_size=5).map("/".join)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(["d/l", "e", "d/e", "l", "d/f/l"]), TARGETS, max_size=4))
def test_no_links_lead_out(links: dict[str, str]) -> None:
    """The oracle is the kernel: wherever a link that was accepted leads is below the directory."""
    import tempfile

    with tempfile.TemporaryDirectory() as where:
        root = Path(where) / "deep" / "root"
        try:
            unpack(archive_of(file("d/x"), *(link(name, to) for name, to in links.items())), root)
        except ArchiveError:
            assert list(root.iterdir()) == []
            return
        for path in root.rglob("*"):
            os.stat(path)
            assert os.path.realpath(path).startswith(str(root) + "/")


def test_limits(tmp_path: Path) -> None:
    small = ArchiveLimits(files=2, bytes=10, depth=2)
    (tmp_path / "here").mkdir()
    for name in "abc":
        (tmp_path / "here" / name).write_bytes(b"")
    with pytest.raises(ArchiveError, match="more than 2 files"):
        pack(tmp_path / "here", limits=small)
    for data, words in [(archive_of(file("a"), file("b"), file("c")), "2 files"), (archive_of(file("a", b"x" * 11)), "10 bytes"),
                        (archive_of(file("a/b/c")), "1 to 2 parts")]:
        with pytest.raises(ArchiveError, match=words):
            unpack(data, tmp_path / "there", limits=small)
    with open(tmp_path / "here" / "a", "wb") as sparse:
        sparse.truncate(2**40)  # is not read into memory to find out
    with pytest.raises(ArchiveError, match="bytes"):
        pack(tmp_path / "here")


@settings(max_examples=100)
@given(st.binary(max_size=600), st.integers(0, 10**6), st.integers(0, 255))
def test_bytes_that_are_no_archive(garbage: bytes, where: int, value: int) -> None:
    import tempfile

    good = bytearray(pack_files({"a/b": b"text", "c": b""}).data)
    where %= len(good)
    good[where] = value
    for data in (garbage, bytes(good), bytes(good)[:where]):
        with tempfile.TemporaryDirectory() as folder:
            try:
                unpack(data, Path(folder) / "there")
            except ArchiveError:
                assert list((Path(folder) / "there").iterdir()) == []
            assert os.listdir(folder) == ["there"]


def test_what_is_packed_is_no_device_and_no_way_out(tmp_path: Path) -> None:
    root = tmp_path / "here"
    root.mkdir()
    os.mkfifo(root / "pipe")
    with pytest.raises(ArchiveError, match="'pipe' is neither"):
        pack(root)
    os.unlink(root / "pipe")
    (root / "out").symlink_to("/etc/hostname")
    with pytest.raises(ArchiveError, match="'out' leads out"):
        pack(root)
    with pytest.raises(NotADirectoryError):
        pack(root / "missing")


def test_only_into_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(FileExistsError):
        unpack(pack_files({"a": b""}).data, tmp_path)
    assert contents(tmp_path) == {"mine": b"kept"}
