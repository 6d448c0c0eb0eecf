"""What a job left behind: the files that its patterns name, as events. Its processes are gone, so nothing changes any more.

Refused: a match that lies outside of the job's directory once links are followed, and what is no file. Limited in number and bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from blake3 import blake3

from soma.config import GIB, MIB
from soma.environments import ArchiveError, checked_path, is_inside
from soma.jobs.events import Output

FILES, BYTES = 1000, 4 * GIB
"""The most that one job's outputs may be."""
CHUNK = 1 * MIB


def matching(directory: Path, patterns: Sequence[str]) -> list[str]:
    """The files that any of the patterns names, as relative paths.

    Raises:
        ArchiveError: one lies outside, has an impossible name, or there are too many or too large ones.
    """
    found: dict[str, int] = {}
    for pattern in patterns:
        for path in sorted(directory.glob(checked_path(pattern))):
            name = checked_path(path.relative_to(directory).as_posix())
            if not is_inside(directory, path):
                raise ArchiveError(f"output {name!r} (of {pattern!r}) is a link out of the job's directory")
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                found[name] = status.st_size
            elif not stat.S_ISDIR(status.st_mode):
                raise ArchiveError(f"output {name!r} (of {pattern!r}) is neither a file nor a directory")
    if len(found) > FILES or sum(found.values()) > BYTES:
        raise ArchiveError(f"the outputs are {len(found)} files of {sum(found.values())} bytes; at most {FILES} files and {BYTES} bytes")
    return sorted(found)


def collected(directory: Path, patterns: Sequence[str]) -> Iterator[Output]:
    """Their contents.

    Raises:
        ArchiveError: as `matching`.
        OSError: one cannot be read.
    """
    for name in matching(directory, patterns):
        fd = os.open(os.path.realpath(directory / name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        digest = blake3()
        with os.fdopen(fd, "rb") as f:
            while data := f.read(CHUNK):
                digest.update(data)
                yield Output(name, data)
        yield Output(name, b"", digest.hexdigest())
