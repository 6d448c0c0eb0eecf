"""The arena, as memfd and as file: what is stored arrives, is private, and its room returns."""

import gc
import multiprocessing
import os
import signal
import stat
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from soma.errors import (
    ClusterError,
    ForkedClientError,
    NotInitializedError,
    ObjectLostError,
    ProtocolError,
    SecurityError,
    SomaError,
)
from soma.transport import lease
from soma.transport.arena import Arena, Block, Grant
from soma.transport.lease import PAGE
from soma.transport.segment import HAS_MEMFD

KINDS = [
    pytest.param(True, id="memfd", marks=pytest.mark.skipif(not HAS_MEMFD, reason="no memfd")),
    pytest.param(False, id="file"),
]


@pytest.fixture(params=KINDS)
def memfd(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def arena(memfd: bool, tmp_path: Path) -> Iterator[Arena]:
    with Arena(16 * PAGE, tmp_path, memfd=memfd) as made:
        yield made


def stored(arena: Arena, *values: bytes) -> Block:
    got = arena.store([memoryview(v) for v in values])
    assert got is not None
    return got[0]


def granted(arena: Arena, block: Block, holder: str = "reader") -> Grant:
    return arena.grant(block, holder)


def fds() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_stored_buffers_arrive_aligned(arena: Arena) -> None:
    got = arena.store([memoryview(b"abc"), memoryview(b""), memoryview(np.arange(4.0)).cast("B")])
    assert got is not None
    block, places = got
    assert places == [(0, 3), (64, 0), (64, 32)]
    view = arena.open(granted(arena, block)).view()
    assert bytes(view[:3]) == b"abc"
    assert np.array_equal(np.frombuffer(view[64:96]), np.arange(4.0))
    assert block.length == len(view) == 96


@pytest.mark.parametrize("size", [(3 << 20) + 1, (33 << 20) + 7])
def test_big_buffers_take_the_other_paths_of_copying(size: int, memfd: bool, tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    with Arena(40 << 20, tmp_path, memfd=memfd) as arena:
        got = arena.store([memoryview(b"x"), memoryview(data)])
        assert got is not None
        assert np.array_equal(np.frombuffer(got[0].view()[64:], np.uint8), data)


def test_views_are_private_and_writable(arena: Arena) -> None:
    block = stored(arena, b"original")
    one, two = block.view(), arena.open(granted(arena, block)).view()
    one[:] = b"changed!"
    assert not one.readonly
    assert bytes(two) == bytes(block.view()) == b"original"


def test_nothing_is_made_before_the_first_store(memfd: bool, tmp_path: Path) -> None:
    before = fds()
    with Arena(1 << 40, tmp_path, memfd=memfd) as arena:
        arena.sweep()
        assert fds() == before
        assert arena.stats().used == 0
        assert list(tmp_path.iterdir()) == []


def test_empty_block(arena: Arena) -> None:
    block = stored(arena)
    assert bytes(arena.open(granted(arena, block)).view()) == b""


def test_room_returns_with_the_last_view(arena: Arena) -> None:
    block = stored(arena, b"v" * 100)
    grant = granted(arena, block)
    array = np.frombuffer(arena.open(grant).view()[10:20], np.uint8)
    del block
    assert arena.stats().leases == 1
    assert arena.stats().used == PAGE
    inner = array[3:]
    del array
    assert arena.stats().leases == 1
    assert bytes(inner) == b"v" * 7
    del inner
    assert arena.stats().leases == arena.stats().used == arena.stats().blocks == 0


def test_dropping_an_opened_block_unused_ends_its_lease(arena: Arena) -> None:
    grant = granted(arena, stored(arena, b"x"))
    arena.open(grant)
    assert arena.stats().leases == 0


def test_own_view_keeps_the_block_without_a_lease(arena: Arena) -> None:
    view = stored(arena, b"mine").view()
    other = stored(arena, b"your").view()
    assert (bytes(view), bytes(other)) == (b"mine", b"your")
    assert arena.stats().blocks == 2


def test_full_gives_none_and_room_comes_back(arena: Arena) -> None:
    blocks = [stored(arena, b"x" * 4 * PAGE) for _ in range(4)]
    assert arena.store([memoryview(b"y")]) is None
    assert arena.store([memoryview(bytes(17 * PAGE))]) is None
    del blocks[1]
    assert stored(arena, b"z" * 4 * PAGE)._offset == 4 * PAGE


def test_reused_room_does_not_show_old_pages(arena: Arena) -> None:
    for n in range(20):
        fill = bytes([n]) * (3 * PAGE)
        view = arena.open(granted(arena, stored(arena, fill))).view()
        assert bytes(view) == fill
        view[:] = b"\xff" * (3 * PAGE)
        del view
    assert arena.stats().blocks == 0


def test_revoke_and_withdraw(arena: Arena) -> None:
    block = stored(arena, b"x")
    grants = [granted(arena, block, holder) for holder in ("a", "a", "b")]
    assert arena.revoke("a") == 2
    assert arena.revoke("a") == arena.revoke("nobody") == 0
    with pytest.raises(ObjectLostError, match="lease"):
        arena.open(grants[0])
    arena.withdraw(grants[2])
    arena.withdraw(grants[2])
    del block
    assert arena.stats().leases == arena.stats().used == 0


def test_a_release_that_comes_too_late_changes_nothing(arena: Arena) -> None:
    opened = arena.open(granted(arena, stored(arena, b"x")))
    assert arena.revoke("reader") == 1
    del opened
    assert arena.stats().leases == arena.stats().used == 0
    assert granted(arena, stored(arena, b"y")).slot == 0


def test_slots_are_reused(arena: Arena) -> None:
    block = stored(arena, b"x")
    for _ in range(50):
        assert granted(arena, block).slot == 0
        arena.revoke("reader")


def test_no_slot_left_is_said(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SLOTS", 2)
    block = stored(arena, b"x")
    first = granted(arena, block)
    granted(arena, block)
    with pytest.raises(ClusterError, match="2 leases"):
        arena.grant(block, "reader")
    arena.withdraw(first)
    assert arena.grant(block, "reader").slot == first.slot


def test_cold_pages_are_given_back(memfd: bool, tmp_path: Path) -> None:
    with Arena(64 * PAGE, tmp_path, memfd=memfd, keep_warm=4 * PAGE) as arena:
        keep = stored(arena, b"k" * PAGE)
        stored(arena, b"x" * 40 * PAGE)
        assert arena.stats().warm == (4 if arena._can_punch else 40) * PAGE
        again = stored(arena, b"y" * 40 * PAGE)
        assert bytes(again.view()) == b"y" * 40 * PAGE
        assert bytes(keep.view()) == b"k" * PAGE


@pytest.mark.skipif(not HAS_MEMFD, reason="counts blocks of a memfd")
def test_punching_really_frees_memory(tmp_path: Path) -> None:
    with Arena(1 << 20, tmp_path, memfd=True, keep_warm=0) as arena:
        block = stored(arena, b"x" * (1 << 20))
        assert arena._data is not None
        fd = arena._data[0].fd
        assert os.fstat(fd).st_blocks * 512 == 1 << 20
        del block
        arena.sweep()
        assert os.fstat(fd).st_blocks == 0


def test_forwarding_keeps_the_chain(memfd: bool, tmp_path: Path) -> None:
    with Arena(4 * PAGE, tmp_path, memfd=memfd) as first, Arena(4 * PAGE, tmp_path, memfd=memfd) as second, \
         Arena(4 * PAGE, tmp_path, memfd=memfd) as third:
        block = second.open(granted(first, stored(first, b"hello")))
        onward = granted(second, block)
        del block
        assert first.stats().leases == second.stats().leases == 1
        view = third.open(onward).view()
        assert bytes(view) == b"hello"
        del view
        assert second.stats().leases == 0
        assert first.stats().leases == first.stats().used == 0


def test_views_outlive_the_sender(memfd: bool, tmp_path: Path) -> None:
    with Arena(4 * PAGE, tmp_path, memfd=memfd) as reader:
        with Arena(4 * PAGE, tmp_path, memfd=memfd) as sender:
            block = stored(sender, b"still here")
            opened = reader.open(granted(sender, block))
            unopened = granted(sender, block)
        assert bytes(opened.view()) == b"still here"
        with pytest.raises(ObjectLostError):
            block.view()
        del opened, block
        with pytest.raises(ObjectLostError, match="gone"):
            reader.open(unopened)


def test_a_segment_that_is_being_closed_is_not_found_by_another_reader(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memfd: bool,
) -> None:
    """Closing a descriptor lets other threads run: one of them opens the next grant right then."""
    with Arena(16 * PAGE, tmp_path, memfd=memfd) as reader:
        block = stored(arena, b"x" * PAGE)
        first, second = (granted(arena, block) for _ in range(2))
        close, opened = os.close, []

        def close_while_another_opens(fd: int) -> None:
            if not opened:
                opened.append(reader.open(second))
            close(fd)

        monkeypatch.setattr(os, "close", close_while_another_opens)
        reader.open(first)  # dropped at once, so its segments are closed
        monkeypatch.undo()
        assert bytes(opened[0].view()) == b"x" * PAGE
        reader.grant(opened[0], "next")


def test_close_leaves_nothing_and_refuses_use(memfd: bool, tmp_path: Path) -> None:
    before = fds()
    arena = Arena(4 * PAGE, tmp_path, memfd=memfd)
    arena.open(granted(arena, stored(arena, b"x")))
    arena.close()
    arena.close()
    assert fds() == before
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotInitializedError, match="closed"):
        arena.store([])


def test_views_use_no_descriptors(arena: Arena) -> None:
    block = stored(arena, b"x")
    before = fds()
    views = [block.view() for _ in range(100)]
    assert fds() == before
    assert all(bytes(v) == b"x" for v in views)


def test_private_and_sealed(arena: Arena, memfd: bool) -> None:
    granted(arena, stored(arena, b"x"))
    assert arena._data is not None and arena._table is not None
    for fd in (arena._data[0].fd, arena._table.held.fd):
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
        assert not os.get_inheritable(fd)
        if memfd:
            with pytest.raises(OSError):
                os.ftruncate(fd, 0)


# -- bad input -----------------------------------------------------------------------------------------------------------------


def test_grant_survives_the_wire(arena: Arena) -> None:
    grant = granted(arena, stored(arena, b"x"))
    assert Grant.fromtuple(list(grant.astuple())) == grant


VALID = ("/proc/1/fd/3", 5, 0, 10, "/proc/1/fd/4", 6, 0)


@pytest.mark.parametrize("index,bad", [
    (0, "relative"), (0, b"/x"), (0, "/a\0b"), (0, "/" + "a" * 5000), (1, -1), (1, True),
    (2, 1), (2, 1 << 64), (3, 1 << 60), (3, None), (4, ""), (5, 1.0), (6, "0"),
])
def test_bad_grants_are_refused(index: int, bad: object) -> None:
    fields: list[object] = list(VALID)
    fields[index] = bad
    with pytest.raises(ProtocolError, match="grant"):
        Grant.fromtuple(fields)


@given(st.one_of(st.none(), st.binary(), st.lists(st.one_of(st.none(), st.integers(), st.text(), st.floats()), max_size=9)))
def test_any_garbage_is_refused_as_such(fields: object) -> None:
    with pytest.raises(ProtocolError):
        Grant.fromtuple(fields)  # type: ignore[arg-type]


def test_grants_that_lie_are_refused(arena: Arena, tmp_path: Path) -> None:
    real = granted(arena, stored(arena, b"x" * PAGE))

    def lie(**changes: object) -> Grant:
        return Grant(**{name: changes.get(name, getattr(real, name)) for name in Grant.__slots__})  # type: ignore[arg-type]

    pipe, other_end = os.pipe()
    outside = tmp_path.parent / "arena-outside"
    outside.write_bytes(b"secret")
    inode = outside.stat().st_ino
    cases: list[tuple[Grant, type[SomaError]]] = [
        (lie(inode=real.inode + 1), ObjectLostError),
        (lie(path="/proc/999999999/fd/3"), ObjectLostError),
        (lie(path=str(outside), inode=inode), ProtocolError),
        (lie(path="/etc/passwd", inode=os.stat("/etc/passwd").st_ino), ProtocolError),
        (lie(length=1 << 30), ProtocolError),
        (lie(offset=1 << 40), ProtocolError),
        (lie(slot=1 << 30), ProtocolError),
        (lie(slot=17), ObjectLostError),
    ]
    if HAS_MEMFD:
        loose = os.memfd_create("loose")
        os.fchmod(loose, 0o600)
        unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
        cases += [
            (lie(path=f"/proc/{os.getpid()}/fd/{pipe}", inode=os.fstat(pipe).st_ino), ProtocolError),
            (lie(path=f"/proc/{os.getpid()}/fd/{unsealed}", inode=os.fstat(unsealed).st_ino), SecurityError),
        ]
    for grant, error in cases:
        with pytest.raises(error):
            arena.open(grant)
    if HAS_MEMFD:
        os.fchmod(unsealed, 0o600)
        with pytest.raises(ProtocolError, match="shrunk"):
            arena.open(lie(path=f"/proc/{os.getpid()}/fd/{unsealed}", inode=os.fstat(unsealed).st_ino))
        os.close(loose)
        os.close(unsealed)
    os.close(pipe)
    os.close(other_end)
    assert arena.stats().leases == 1


def test_a_full_disk_is_a_full_arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    with Arena(16 * PAGE, tmp_path, memfd=False) as arena:
        monkeypatch.setattr(os, "posix_fallocate", no_space, raising=False)
        assert arena.store([memoryview(b"x")]) is None
        assert arena.stats().used == 0


# -- other processes -----------------------------------------------------------------------------------------------------------


def read_and_answer(pipe: Connection, directory: Path, memfd: bool) -> None:
    with Arena(4 * PAGE, directory, memfd=memfd) as arena:
        while (fields := pipe.recv()) is not None:
            view = arena.open(Grant.fromtuple(fields)).view()
            pipe.send(bytes(view[:5]))
            pipe.recv()
            del view
            pipe.send("released")


@pytest.fixture
def reader(memfd: bool, tmp_path: Path) -> Iterator[tuple[Connection, multiprocessing.process.BaseProcess]]:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=read_and_answer, args=(there, tmp_path, memfd))
    process.start()
    there.close()
    yield here, process
    here.close()
    process.kill()
    process.join()
    process.close()  # its sentinel is a pipe


def test_another_process_reads_and_releases(reader: tuple[Connection, object], memfd: bool, tmp_path: Path) -> None:
    pipe, _ = reader
    with Arena(16 * PAGE, tmp_path, memfd=memfd) as arena:
        pipe.send(granted(arena, stored(arena, b"hello")).astuple())
        assert pipe.recv() == b"hello"
        assert arena.stats().leases == 1
        pipe.send("go on")
        assert pipe.recv() == "released"
        assert arena.stats().leases == arena.stats().used == 0
        pipe.send(None)


def test_a_killed_reader_is_revoked(
    reader: tuple[Connection, multiprocessing.process.BaseProcess], memfd: bool, tmp_path: Path
) -> None:
    pipe, process = reader
    with Arena(16 * PAGE, tmp_path, memfd=memfd) as arena:
        pipe.send(granted(arena, stored(arena, b"hello"), "victim").astuple())
        assert pipe.recv() == b"hello"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert arena.stats().leases == 1
        assert arena.revoke("victim") == 1
        assert arena.stats().used == 0


def in_child(check: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            check()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_harms_nothing(arena: Arena) -> None:
    block = stored(arena, b"parent")
    grant = granted(arena, block)
    opened: list[Block] = [arena.open(grant)]
    views = [opened[0].view()]

    def child() -> None:
        with pytest.raises(ForkedClientError):
            arena.store([])
        with pytest.raises(ForkedClientError):
            arena.open(grant)
        views.clear()
        opened.clear()
        gc.collect()
        arena.close()

    assert in_child(child) == 0
    assert arena.stats().leases == 1
    assert bytes(views[0]) == b"parent"
    assert stored(arena, b"next") is not None


# -- any order -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_use(kind: bool, tmp_path: Path) -> None:
    class Use(RuleBasedStateMachine):
        """Store, lease, read, drop, die in any order: contents never change under a holder, and all room returns."""

        def __init__(self) -> None:
            super().__init__()
            self.arena = Arena(32 * PAGE, tmp_path, memfd=kind, keep_warm=4 * PAGE)
            self.fill = 0
            self.held: list[tuple[Block, bytes]] = []
            self.unread: list[tuple[Grant, str, bytes]] = []
            self.views: list[tuple[memoryview, str, bytes, Block]] = []

        @rule(pages=st.integers(0, 10))
        def store(self, pages: int) -> None:
            self.fill = (self.fill + 1) % 251
            content = bytes([self.fill]) * (pages * PAGE + 5)
            got = self.arena.store([memoryview(content)])
            if got is not None:
                self.held.append((got[0], content))

        @rule(data=st.data(), holder=st.sampled_from("ab"))
        def grant(self, data: st.DataObject, holder: str) -> None:
            if self.held:
                block, content = self.held[data.draw(st.integers(0, len(self.held) - 1))]
                self.unread.append((granted(self.arena, block, holder), holder, content))

        @rule(data=st.data())
        def read(self, data: st.DataObject) -> None:
            if self.unread:
                grant, holder, content = self.unread.pop(data.draw(st.integers(0, len(self.unread) - 1)))
                block = self.arena.open(grant)
                self.views.append((block.view(), holder, content, block))

        @rule(data=st.data(), which=st.sampled_from(["held", "views"]))
        def drop(self, data: st.DataObject, which: str) -> None:
            things: list[object] = getattr(self, which)
            if things:
                del things[data.draw(st.integers(0, len(things) - 1))]

        @rule(holder=st.sampled_from("ab"))
        def die(self, holder: str) -> None:
            mine = [v for v in self.views if v[1] == holder]
            unread = [u for u in self.unread if u[1] == holder]
            assert self.arena.revoke(holder) == len(mine) + len(unread)
            for _, _, _, block in mine:
                block._release = block._release.args[0].unpin  # a dead process runs no finalizers
            self.views = [v for v in self.views if v[1] != holder]
            self.unread = [u for u in self.unread if u[1] != holder]

        @invariant()
        def contents_stand(self) -> None:
            assert all(bytes(view) == content for view, _, content, _ in self.views)
            assert self.arena.stats().leases == len(self.unread) + len(self.views)

        def teardown(self) -> None:
            self.held.clear()
            self.views.clear()
            self.unread.clear()
            self.arena.revoke("a")
            self.arena.revoke("b")
            assert self.arena.stats().used == self.arena.stats().blocks == self.arena.stats().leases == 0
            self.arena.close()

    run_state_machine_as_test(Use, settings=settings(max_examples=25, stateful_step_count=30, deadline=None))
