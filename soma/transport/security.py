"""Who may reach a socket: private runtime directories, and which addresses may be bound or connected at all.

A cluster's sockets lie in a directory of mode 0700 that belongs to the user; everything else is refused with a SecurityError
that says what is wrong and what to do about it. TCP is refused without CURVE keys, wildcards always.

    <base>/soma-<8 hex>/owner     base is $XDG_RUNTIME_DIR, or soma-<uid> in the directory for temporary files

`owner` names the processes that use the directory, each by pid and start time, so that the next `init` can remove what a crash
left. A directory without `owner` was not made here and is never removed. The file appears with the directory, in one rename.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from soma.errors import SecurityError

_LINUX = sys.platform.startswith("linux")

SOCKET_PATH_BYTES = 107 if _LINUX else 103
"""What fits into `sockaddr_un.sun_path` with its final zero."""

SOCKET_NAME_BYTES = 40
"""Kept free behind the directory for the name of a socket."""

NETWORK_FILE = "network.json"
"""In a runtime directory whose processes are reached from other machines as well (see `transport.place`)."""

_OWNER = "owner"
_RUNTIME_NAME = re.compile(r"soma-[0-9a-f]{8}")
_HALF_MADE_NAME = re.compile(r"\.soma-[0-9a-f]{8}")
_WILDCARDS = {"", "*", "0.0.0.0", "::", "0"}
_umask_lock = threading.RLock()


# -- directories --------------------------------------------------------------------------------------------------------


def runtime_base() -> Path:
    """The private directory in which this user's runtime directories lie; made when it is missing.

    Raises:
        SecurityError: it exists, but others own it, can enter it or could replace it.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and os.path.isabs(given) and os.path.lexists(given):
        base = Path(given)
        check_private(base, advice="unset XDG_RUNTIME_DIR or point it to a directory of yours with mode 0700")
        return base
    parent = Path(tempfile.gettempdir())
    mode = parent.stat().st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise SecurityError(f"{parent} can be written by others and has no sticky bit (mode {stat.S_IMODE(mode):04o}): anybody "
                            f"could replace what lies there; `chmod +t {parent}`, or set XDG_RUNTIME_DIR")
    base = parent / f"soma-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):  # checked below, whoever made it
        base.mkdir(mode=0o700)
    check_private(base, advice="remove it, or set XDG_RUNTIME_DIR to a directory of yours with mode 0700")
    return base


def create_runtime_dir() -> Path:
    """A new private directory for one cluster's sockets; its `owner` is this process, as the driver."""
    base = runtime_base()
    name = f"soma-{secrets.token_hex(4)}"
    path = base / name
    length = len(os.fsencode(path)) + 1 + SOCKET_NAME_BYTES
    if length > SOCKET_PATH_BYTES:
        raise SecurityError(f"{base} is too long a path for sockets: with their names it would take {length} bytes, the system "
                            f"allows {SOCKET_PATH_BYTES}; set XDG_RUNTIME_DIR or TMPDIR to a shorter one")
    made = base / f".{name}"
    made.mkdir(mode=0o700)
    made.chmod(0o700)  # mkdir obeys the umask, which may have taken our own bits away
    write_owner(made, driver=os.getpid())
    made.rename(path)
    check_private(path)
    return path


def check_private(path: Path, *, advice: str = "") -> None:
    """Refuse `path` unless it is a real directory of this user that nobody else can enter.

    Raises:
        SecurityError: a symlink, missing, no directory, of another user, or of another mode than 0700 (0500, …).
    """
    hint = f"; {advice}" if advice else ""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        raise SecurityError(f"{path} does not exist{hint}") from None
    except OSError as e:
        raise SecurityError(f"{path} cannot be examined: {e.strerror}{hint}") from None
    if stat.S_ISLNK(found.st_mode):
        raise SecurityError(f"{path} is a symlink; somebody could point it elsewhere{hint}")
    if not stat.S_ISDIR(found.st_mode):
        raise SecurityError(f"{path} is not a directory{hint}")
    if found.st_uid != os.geteuid():
        raise SecurityError(f"{path} belongs to user {found.st_uid}, not to user {os.geteuid()} who runs this{hint}")
    if found.st_mode & 0o077:
        raise SecurityError(f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):04o}); "
                            f"{advice or f'`chmod 700 {path}` if nobody else put anything there'}")


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """What is made inside is for this user only. The umask belongs to the whole process, so one thread at a time."""
    with _umask_lock:
        before = os.umask(0o077)
        try:
            yield
        finally:
            os.umask(before)


# -- addresses ----------------------------------------------------------------------------------------------------------


def check_endpoint(address: str, *, curve: bool) -> None:
    """Refuse an address that others could reach. `curve` says whether the socket has CURVE keys.

    Raises:
        SecurityError: TCP without keys, TCP on every interface, ipc outside a private directory, any other transport.
    """
    transport, _, rest = address.partition("://")
    if transport == "inproc":
        return
    if transport == "ipc":
        _check_ipc(address, rest)
    elif transport == "tcp":
        _check_tcp(address, rest, curve)
    else:
        raise SecurityError(f"{address!r}: only ipc, inproc, and tcp with CURVE keys are used")


def _check_ipc(address: str, path: str) -> None:
    if not path.startswith("/"):
        raise SecurityError(f"{address!r}: an ipc address is an absolute path; abstract sockets and wildcards have no owner")
    if "\0" in path:
        raise SecurityError(f"{address!r}: a path holds no NUL")
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES:
        raise SecurityError(f"{address!r}: the path of a socket may have {SOCKET_PATH_BYTES} bytes, this one has {length}")
    try:
        check_private(Path(path).parent)
    except SecurityError as e:
        raise SecurityError(f"{address}: {e}") from None


def _check_tcp(address: str, rest: str, curve: bool) -> None:
    for end in rest.split(";"):  # zmq's "source;destination"
        host = end.rpartition(":")[0].strip("[]").partition("%")[0]
        if host in _WILDCARDS or re.fullmatch(r"[0:.]+", host):
            raise SecurityError(f"{address!r} would listen on every interface; name one address")
    if not curve:
        raise SecurityError(f"{address!r}: TCP needs CURVE keys; without them anybody who reaches the port could run code here")


# -- who uses a directory -----------------------------------------------------------------------------------------------


def write_owner(directory: Path, **processes: int) -> None:
    """Record the pids that use `directory`, by role (`driver=`, `daemon=`); roles that are not named keep their entry."""
    owner = _read_owner(directory) or {"namespace": _pid_namespace()}
    for role, pid in processes.items():
        owner[role] = [pid, _started(pid)]
    fresh = directory / f".{_OWNER}.{os.getpid()}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as f:
        os.fchmod(fd, 0o600)  # as above
        json.dump(owner, f)
    fresh.rename(directory / _OWNER)


def owners(directory: Path) -> dict[str, int]:
    """The recorded processes that are still alive, role → pid."""
    owner = _read_owner(directory) or {}
    return {role: entry[0] for role, entry in owner.items()
            if isinstance(entry, list) and len(entry) == 2 and _started(entry[0]) == entry[1] is not None}


def runtime_dirs() -> list[Path]:
    """This user's runtime directories, live and stale."""
    return [p for p in sorted(runtime_base().iterdir()) if _RUNTIME_NAME.fullmatch(p.name) and _is_ours(p)]


def stale_dirs() -> list[Path]:
    """Directories none of whose recorded processes lives any more.

    A directory recorded in another pid namespace (a container that shares this one) cannot be judged and is left alone.
    """
    here = _pid_namespace()
    half_made = [p for p in runtime_base().iterdir() if _HALF_MADE_NAME.fullmatch(p.name) and _is_ours(p)]
    return [p for p in [*runtime_dirs(), *half_made]
            if (owner := _read_owner(p)) is not None and owner.get("namespace") == here and not owners(p)]


def remove_stale() -> list[Path]:
    """Remove the directories that crashed clusters left. Returns what was removed."""
    removed = []
    for path in stale_dirs():
        with contextlib.suppress(FileNotFoundError):  # another init does the same at this moment
            shutil.rmtree(path)
            removed.append(path)
    return removed


def _is_ours(path: Path) -> bool:
    try:
        check_private(path)
    except SecurityError:
        return False
    return True


def _read_owner(directory: Path) -> dict[str, object | list[int]] | None:
    try:
        owner = json.loads((directory / _OWNER).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        owner = None
    # it is replaced by a rename, so half of one means that the machine went down: whoever wrote it is gone
    return owner if isinstance(owner, dict) else {"namespace": _pid_namespace()}


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""  # no Linux, so no pid namespaces


def _started(pid: int) -> int | None:
    """When a process began, in clock ticks; None when it is gone. A pid with its start time is never reused."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        if _LINUX:
            return None
    import psutil

    try:
        return int(psutil.Process(pid).create_time() * 100)
    except psutil.NoSuchProcess:
        return None
