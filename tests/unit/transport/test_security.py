"""Runtime directories are private or refused; addresses that others could reach are refused; what crashes left is removed."""

import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading

import pytest

from soma.errors import SecurityError
from soma.transport import security
from soma.transport.security import (
    SOCKET_PATH_BYTES,
    check_endpoint,
    check_private,
    create_runtime_dir,
    owners,
    private_umask,
    remove_stale,
    runtime_base,
    runtime_dirs,
    stale_dirs,
    write_owner,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
NOBODY = 65534


@pytest.fixture
def base(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as short:
        os.chmod(short, 0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield runtime_base()


@pytest.fixture
def no_xdg(monkeypatch):
    """A directory for temporary files of our own, as if it were /tmp."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with tempfile.TemporaryDirectory(prefix="st-", dir="/tmp") as short:
        os.chmod(short, 0o1777)
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield type(runtime_base())(short)


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def ended_pid():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return child.pid


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_directory_is_private_whatever_the_umask(base, umask):
    before = os.umask(umask)
    try:
        path = create_runtime_dir()
    finally:
        os.umask(before)
    assert path.parent == base
    assert re.fullmatch("soma-[0-9a-f]{8}", path.name)
    assert mode(path) == 0o700
    assert mode(path / "owner") == 0o600
    assert owners(path) == {"driver": os.getpid()}
    assert runtime_dirs() == [path]
    assert stale_dirs() == []


def test_without_xdg_it_lies_in_a_directory_per_user(no_xdg):
    path = create_runtime_dir()
    assert path.parent == no_xdg / f"soma-{os.geteuid()}"
    assert mode(path.parent) == mode(path) == 0o700
    assert create_runtime_dir().parent == path.parent


def test_xdg_that_does_not_exist_is_not_used(no_xdg, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(no_xdg / "missing"))
    assert runtime_base() == no_xdg / f"soma-{os.geteuid()}"


def test_temporary_directory_without_sticky_bit_is_refused(no_xdg):
    (no_xdg / f"soma-{os.geteuid()}").rmdir()
    no_xdg.chmod(0o777)
    with pytest.raises(SecurityError, match=r"sticky bit \(mode 0777\).*chmod \+t"):
        create_runtime_dir()


def test_symlink_in_its_place_is_refused(no_xdg):
    mine = no_xdg / f"soma-{os.geteuid()}"
    mine.rmdir()
    (no_xdg / "elsewhere").mkdir(mode=0o700)
    mine.symlink_to(no_xdg / "elsewhere")
    with pytest.raises(SecurityError, match="is a symlink.*remove it"):
        create_runtime_dir()
    assert list((no_xdg / "elsewhere").iterdir()) == []


@as_root
def test_directory_of_another_user_is_refused(no_xdg):
    mine = no_xdg / f"soma-{os.geteuid()}"
    os.chown(mine, NOBODY, NOBODY)
    with pytest.raises(SecurityError, match=f"belongs to user {NOBODY}, not to user 0.*XDG_RUNTIME_DIR"):
        create_runtime_dir()
    assert list(mine.iterdir()) == []


@as_root
def test_another_user_cannot_enter(base):
    path = create_runtime_dir()
    (path / "daemon").touch()
    base.chmod(0o755)
    program = f"import os\nos.setgid({NOBODY}); os.setuid({NOBODY})\nfor p in {[str(path), str(path / 'daemon')]!r}: open(p)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize("loose", [0o755, 0o770, 0o701, 0o704, 0o720, 0o777, 0o1777])
def test_loose_modes_are_refused(tmp_path, loose):
    path = tmp_path / "x"
    path.mkdir()
    path.chmod(loose)
    with pytest.raises(SecurityError, match=f"mode {loose:04o}.*chmod 700"):
        check_private(path)
    path.chmod(0o700)
    check_private(path)


def test_only_existing_directories_are_private(tmp_path):
    with pytest.raises(SecurityError, match="does not exist"):
        check_private(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(SecurityError, match="not a directory"):
        check_private(tmp_path / "file")


def test_too_long_a_path_is_named(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(SecurityError, match=re.escape(str(deep)) + f".*allows {SOCKET_PATH_BYTES}.*shorter"):
        create_runtime_dir()
    assert list(deep.iterdir()) == []


def test_the_umask_comes_back_whatever_threads_do(tmp_path):
    before = os.umask(0o022)
    try:
        made = []

        def bind(i):
            for n in range(50):
                with private_umask(), private_umask():
                    path = tmp_path / f"{i}-{n}"
                    path.touch()
                    made.append(path)

        threads = [threading.Thread(target=bind, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert {mode(p) for p in made} == {0o600}
        assert len(made) == 200
        with pytest.raises(KeyError), private_umask():
            raise KeyError
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("address", [
    "tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://[::]:5555", "tcp://:::5555", "tcp://[0:0::0]:1", "tcp://0:5555", "tcp://:5555",
    "tcp://[::%eth0]:5555", "tcp://192.0.2.1:1;*:5555",
])
@pytest.mark.parametrize("curve", [False, True])
def test_wildcards_are_refused_even_with_keys(address, curve):
    with pytest.raises(SecurityError, match="every interface"):
        check_endpoint(address, curve=curve)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:5555", "tcp://[::1]:*", "tcp://node7:5555", "tcp://eth0:*"])
def test_tcp_needs_keys(address):
    with pytest.raises(SecurityError, match="CURVE"):
        check_endpoint(address, curve=False)
    check_endpoint(address, curve=True)


@pytest.mark.parametrize("address", ["ws://127.0.0.1:1", "udp://127.0.0.1:1", "epgm://eth0", "vmci://*:1", "", "daemon", "/tmp/x",
                                     "TCP://127.0.0.1:1", "ipc://@abstract", "ipc://*", "ipc://relative/daemon", "ipc:///tmp/a\0b"])
@pytest.mark.parametrize("curve", [False, True])
def test_other_addresses_are_refused(address, curve):
    with pytest.raises(SecurityError):
        check_endpoint(address, curve=curve)


def test_ipc_lies_in_a_private_directory(base):
    path = create_runtime_dir()
    check_endpoint(f"ipc://{path}/daemon", curve=False)
    check_endpoint("inproc://anything", curve=False)
    with pytest.raises(SecurityError, match=f"may have {SOCKET_PATH_BYTES} bytes"):
        check_endpoint(f"ipc://{path}/{'x' * 100}", curve=False)
    path.chmod(0o750)
    with pytest.raises(SecurityError, match="mode 0750"):
        check_endpoint(f"ipc://{path}/daemon", curve=False)
    with pytest.raises(SecurityError):
        check_endpoint("ipc:///tmp/daemon", curve=True)


def test_stale_is_what_none_of_its_processes_uses(base):
    gone = ended_pid()
    live, halves, stale = create_runtime_dir(), create_runtime_dir(), create_runtime_dir()
    write_owner(halves, driver=gone, daemon=os.getpid())
    write_owner(stale, driver=gone, daemon=gone)
    (stale / "daemon").touch()
    (stale / "logs").mkdir()
    assert owners(halves) == {"daemon": os.getpid()}
    assert stale_dirs() == [stale]
    assert remove_stale() == [stale]
    assert remove_stale() == []
    assert runtime_dirs() == sorted([live, halves])


def test_a_pid_that_was_given_to_another_process_is_not_the_owner(base):
    path = create_runtime_dir()
    owner = json.loads((path / "owner").read_text())
    owner["driver"][1] -= 1
    (path / "owner").write_text(json.dumps(owner))
    assert owners(path) == {}
    assert stale_dirs() == [path]


def test_a_zombie_owns_nothing(base):
    path = create_runtime_dir()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_owner(path, driver=child.pid)
    assert owners(path) == {"driver": child.pid}
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert stale_dirs() == [path]
    child.wait()


def test_what_a_power_cut_left_is_stale_and_what_is_not_ours_is_not(base):
    path = create_runtime_dir()
    (path / "owner").write_text("")
    half_made = base / ".soma-00000000"
    half_made.mkdir(mode=0o700)
    write_owner(half_made, driver=ended_pid())
    for name in ("soma-11111111", "soma-conf", "somawm"):
        (base / name).mkdir(mode=0o700)
    (base / "soma-22222222").symlink_to("/etc")
    (base / "soma-33333333").touch()
    assert remove_stale() == [path, half_made]
    assert sorted(p.name for p in base.iterdir()) == ["soma-11111111", "soma-22222222", "soma-33333333", "soma-conf", "somawm"]


def test_a_directory_of_another_pid_namespace_is_left_alone(base, monkeypatch):
    path = create_runtime_dir()
    write_owner(path, driver=ended_pid())
    monkeypatch.setattr(security, "_pid_namespace", lambda: "pid:[1]")
    assert stale_dirs() == []
