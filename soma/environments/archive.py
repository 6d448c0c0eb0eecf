"""Files of a directory as bytes, and back; the same bytes for the same files.

    b"soma-files-1\\n"   8 bytes: length of the index, big endian   index, JSON: [[path, kind, size | target], …]   contents, in its order

A kind is "f" (file), "x" (one that can be run), "d" (directory) or "l" (link). No owners, no times, no devices, nothing compressed: what
it unpacks to is never larger than itself, and whatever it says can be checked before anything is written.

Refused on both sides, with an ArchiveError that names the path: what is absolute or leaves the directory (`..`, links), devices,
sockets and pipes, NUL and other control characters, names that some systems reserve, and more or larger files than the limits allow.
Unpacking writes no file through a link: links come last, and one that leads outside undoes the whole.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from blake3 import blake3

from soma.config import MIB
from soma.errors import ArchiveError

EXCLUDED = frozenset({".git", ".hg", ".svn", "__pycache__", ".venv", ".tox", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".soma"})
"""Names that `pack` leaves out: made by tools, and made again by them."""

_RESERVED = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{name}{n}" for name in ("COM", "LPT") for n in range(1, 10))})
_NAME_BYTES, _PATH_BYTES = 255, 1024
_MAGIC = b"soma-files-1\n"
_INDEX_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may hold."""

    files: int = 10_000
    bytes: int = 512 * MIB
    depth: int = 32


LIMITS = ArchiveLimits()


@dataclass(frozen=True, slots=True)
class Archive:
    """Packed files. `hash` is the BLAKE3 of `data`, so equal files give equal hashes."""

    data: bytes
    hash: str
    files: int


def checked_path(name: str, *, depth: int = LIMITS.depth) -> str:
    """A path below a directory, as it is written in an archive: relative, with slashes.

    Raises:
        ArchiveError: it is absolute, leaves the directory, or holds what no file should be called.
    """
    if not isinstance(name, str) or not name or name.startswith("/") or "\\" in name:
        raise ArchiveError(f"path {name!r}: a relative path with slashes")
    if not name.isprintable():
        raise ArchiveError(f"path {name!r}: holds control characters")
    parts = PurePosixPath(name).parts
    if ".." in parts:
        raise ArchiveError(f"path {name!r} leaves its directory")
    if not parts or len(parts) > depth or len(os.fsencode(name)) > _PATH_BYTES:
        raise ArchiveError(f"path {name[:80]!r}: from 1 to {depth} parts, at most {_PATH_BYTES} bytes")
    for part in parts:
        if len(os.fsencode(part)) > _NAME_BYTES:
            raise ArchiveError(f"path {name[:80]!r}…: a name of more than {_NAME_BYTES} bytes")
        if part.split(".")[0].rstrip().upper() in _RESERVED or ":" in part or part.endswith((" ", ".")):
            raise ArchiveError(f"path {name!r}: {part!r} is reserved on some systems")
    return "/".join(parts)


def is_inside(root: Path, path: Path) -> bool:
    """Whether a path that exists lies below a directory, once all links are followed."""
    return os.path.realpath(path).startswith(os.path.realpath(root) + os.sep)


# -- packing ------------------------------------------------------------------------------------------------------------


def pack(directory: str | os.PathLike[str], *, limits: ArchiveLimits = LIMITS, exclude: Collection[str] = EXCLUDED) -> Archive:
    """The files below a directory, links that stay inside included.

    Args:
        exclude: names (of files or directories, at any depth) to leave out.

    Raises:
        ArchiveError: something that must not travel, or over the limits.
        OSError: the directory cannot be read.
    """
    root = Path(directory)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a directory")
    writer = _Writer(limits)
    for path, found in _walk(root, "", frozenset(exclude)):
        where = root / path
        if stat.S_ISLNK(found.st_mode):
            target = os.readlink(where)
            _check_target(path, target)
            if not is_inside(root, where):
                raise ArchiveError(f"link {path!r} leads out of {root}, to {target!r}")
            writer.add(path, "l", target=target)
        elif stat.S_ISDIR(found.st_mode):
            writer.add(path, "d")
        elif stat.S_ISREG(found.st_mode):
            writer.check_room(path, found.st_size)
            writer.add(path, "x" if found.st_mode & 0o100 else "f", where.read_bytes())
        else:
            raise ArchiveError(f"{path!r} is neither a file nor a directory")
    return writer.close()


def pack_files(files: Mapping[str, bytes], *, limits: ArchiveLimits = LIMITS) -> Archive:
    """Given files, by path."""
    writer = _Writer(limits)
    for path in sorted(files):
        writer.add(checked_path(path, depth=limits.depth), "f", files[path])
    return writer.close()


class _Writer:
    def __init__(self, limits: ArchiveLimits) -> None:
        self._limits, self._size = limits, 0
        self._index: list[tuple[str, str, int | str]] = []
        self._contents: list[bytes] = []

    def check_room(self, path: str, size: int) -> None:
        if self._size + size > self._limits.bytes:
            raise ArchiveError(f"{path!r}: with it the files have more than {self._limits.bytes} bytes")

    def add(self, path: str, kind: str, data: bytes = b"", target: str = "") -> None:
        checked_path(path, depth=self._limits.depth)
        if len(self._index) >= self._limits.files:
            raise ArchiveError(f"more than {self._limits.files} files")
        self.check_room(path, len(data))
        self._size += len(data)
        self._index.append((path, kind, target if kind == "l" else len(data)))
        self._contents.append(data)

    def close(self) -> Archive:
        index = json.dumps(self._index, separators=(",", ":")).encode()
        if len(index) > _INDEX_BYTES:
            raise ArchiveError(f"the names of the files take {len(index)} bytes; at most {_INDEX_BYTES}")
        data = b"".join((_MAGIC, len(index).to_bytes(8, "big"), index, *self._contents))
        return Archive(data, blake3(data).hexdigest(), len(self._index))


def _walk(root: Path, below: str, exclude: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
    for entry in sorted(os.scandir(root / below), key=lambda e: e.name):
        if entry.name in exclude:
            continue
        path = f"{below}/{entry.name}" if below else entry.name
        yield path, entry.stat(follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, path, exclude)


# -- unpacking ----------------------------------------------------------------------------------------------------------


def unpack(data: bytes, directory: str | os.PathLike[str], *, limits: ArchiveLimits = LIMITS) -> tuple[str, ...]:
    """Write an archive's files into a directory, which is made, or is empty. Returns their paths.

    Raises:
        ArchiveError: something that must not be unpacked, or over the limits, or no archive; the directory is empty again.
        FileExistsError: the directory is not empty.
    """
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty")
    members = _checked(data, limits)
    try:
        for member in members:
            _write(member, data, root / member.path)
        for member in members:
            where = root / member.path
            if member.kind == "l" and not (is_inside(root, where) and where.exists()):
                raise ArchiveError(f"link {member.path!r} leads out of its directory, or nowhere: {member.target!r}")
    except BaseException:
        _clear(root)
        raise
    return tuple(member.path for member in members if member.kind != "d")


@dataclass(frozen=True, slots=True)
class _Member:
    path: str
    kind: str
    start: int
    size: int
    target: str


def _checked(data: bytes, limits: ArchiveLimits) -> list[_Member]:
    """The members, directories first, then files, then links; nothing was written yet."""
    offset = len(_MAGIC) + 8
    length = int.from_bytes(data[len(_MAGIC):offset], "big")
    if data[:len(_MAGIC)] != _MAGIC or length > min(_INDEX_BYTES, len(data) - offset):
        raise ArchiveError("no archive of files: it does not begin like one")
    try:
        index = json.loads(data[offset:offset + length])
    except (ValueError, RecursionError):
        raise ArchiveError("no archive of files: its index is damaged") from None
    if not isinstance(index, list) or len(index) > limits.files:
        raise ArchiveError(f"more than {limits.files} files" if isinstance(index, list) else "no archive of files: no index")
    found: dict[str, _Member] = {}
    start = offset + length
    for entry in index:
        member = _member(entry, start, limits)
        if member.path in found:
            raise ArchiveError(f"path {member.path!r} occurs twice")
        found[member.path] = member
        start += member.size
        if start - offset - length > limits.bytes:
            raise ArchiveError(f"{member.path!r}: with it the files have more than {limits.bytes} bytes")
    if start != len(data):
        raise ArchiveError(f"no archive of files: {start} bytes were announced, it has {len(data)}")
    for path in found:
        for above in list(PurePosixPath(path).parents)[:-1]:
            if str(above) in found and found[str(above)].kind != "d":
                raise ArchiveError(f"path {path!r} goes through {str(above)!r}, which is no directory")
    return sorted(found.values(), key=lambda m: ("dfxl".index(m.kind), m.path))


def _member(entry: object, start: int, limits: ArchiveLimits) -> _Member:
    match entry:
        case [str(path), "l", str(target)]:
            path = checked_path(path, depth=limits.depth)
            _check_target(path, target)
            return _Member(path, "l", start, 0, target)
        case [str(path), "d" | "f" | "x" as kind, int(size)] if not isinstance(size, bool) and size >= 0 and (kind != "d" or not size):
            return _Member(checked_path(path, depth=limits.depth), kind, start, size, "")
    raise ArchiveError(f"{str(entry)[:80]!r} is neither a file nor a directory")


def _check_target(path: str, target: str) -> None:
    """A link's target is relative and goes up only at its beginning, and not further than its directory."""
    parts = target.split("/")
    up = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    if not target or target.startswith("/") or ".." in parts[up:] or up > path.count("/") or not target.isprintable():
        raise ArchiveError(f"link {path!r} leads out of its directory, to {target!r}")


def _write(member: _Member, data: bytes, where: Path) -> None:
    if member.kind == "d":
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if member.kind == "l":
        os.symlink(member.target, where)
        return
    fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700 if member.kind == "x" else 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(memoryview(data)[member.start:member.start + member.size])


def _clear(root: Path) -> None:
    for entry in os.scandir(root):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
