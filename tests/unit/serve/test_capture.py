"""What is printed, by descriptor: cut into lines and texts (pure), and read off a pipe while somebody writes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.serve.slots import printing
from soma.serve.slots.capture import Tap
from soma.serve.slots.lines import BLOCK, LINE, MARK, LineBlocks

# -- lines -----------------------------------------------------------------------------------------------------------------------

WRITES = [b"\n", b"a", b"word ", b"\r\n", "ä€😀".encode(), "😀".encode()[:2], b"\xff", b"x" * 50, b"\n\n"]
pieces = st.lists(st.sampled_from(WRITES), max_size=40)


def fed(chunks: list[bytes], **limits: int) -> list[str]:
    blocks = LineBlocks(**limits)
    return [text for chunk in chunks for text in blocks.feed(chunk)] + blocks.end()


@given(pieces, st.integers(1, 30))
def test_nothing_is_lost_whatever_the_reads(chunks: list[bytes], block: int) -> None:
    texts = fed(chunks, block=block)
    assert "".join(texts) == b"".join(chunks).decode("utf-8", "replace")
    assert all(0 < len(t) for t in texts)


@given(pieces, st.integers(8, 30))
def test_texts_end_with_lines_where_lines_are_short(chunks: list[bytes], block: int) -> None:
    whole = b"".join(chunks)
    for text in fed(chunks, block=block)[:-1]:
        longest = max(len(line) for line in whole.split(b"\n")) + 1
        assert text.endswith("\n") or longest > block


@given(pieces)
def test_a_line_waits_for_its_end(chunks: list[bytes]) -> None:
    blocks = LineBlocks()
    for chunk in chunks:
        assert all(t.endswith("\n") for t in blocks.feed(chunk))


@given(st.lists(st.tuples(st.integers(0, 25), st.integers(1, 9)), max_size=8), st.integers(1, 12), st.booleans())
def test_what_a_line_has_too_much_is_cut(lines: list[tuple[int, int]], most: int, ended: bool) -> None:
    """Against a count by line; read in pieces of several sizes."""
    whole = b"\n".join(b"%c" % (97 + i) * n for i, (n, _) in enumerate(lines)) + (b"\n" if ended else b"")
    step = max((s for _, s in lines), default=1)
    want = "".join(line[:most] + MARK if len(line) > most else line + "\n" for line in whole.decode().split("\n"))[:-1]
    if whole and not whole.endswith(b"\n") and len(whole.split(b"\n")[-1]) > most:
        want += "\n"  # the mark ends the line
    chunks = [whole[i:i + step] for i in range(0, len(whole), step)]
    assert "".join(fed(chunks, line=most, block=5)) == want


def test_a_line_of_five_megabytes() -> None:
    texts = fed([b"x" * 65_536] * 80 + [b"\nnext\n"])
    assert "".join(texts) == "x" * LINE + MARK + "next\n"
    assert max(len(t.encode()) for t in texts) <= BLOCK


def test_a_text_fits_into_a_message_at_its_worst() -> None:
    assert max(len(t.encode()) for t in fed([b"\xff" * 100_000])) <= 60_000


# -- the pipe --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tap(capfd: pytest.CaptureFixture[str]) -> Iterator[Tap]:
    with contextlib.closing(Tap()) as tap:
        yield tap


@contextlib.contextmanager
def process_log() -> Iterator[int]:
    """To read what the process writes to descriptor 2."""
    kept = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    yield reading
    os.dup2(kept, 2)
    os.close(kept)
    os.close(reading)


def test_descriptors_c_code_and_children(tap: Tap) -> None:
    said: list[str] = []
    capture = tap.open(said.append)
    library = ctypes.CDLL(None)
    os.write(1, b"one\n")
    subprocess.run("echo two; echo three >&2", shell=True, check=True)
    library.puts(b"four")  # held back by the C library
    capture.end()
    assert "".join(said) == "one\ntwo\nthree\nfour\n"


def test_what_is_printed_is_told_while_it_runs(tap: Tap) -> None:
    heard = threading.Event()
    capture = tap.open(lambda text: heard.set())
    os.write(1, b"early\n")
    assert heard.wait(10)
    capture.end()


def test_more_than_any_pipe_holds(tap: Tap) -> None:
    said: list[str] = []
    capture = tap.open(said.append)
    for i in range(2000):
        os.write(1, b"%d %s\n" % (i, b"x" * 2000))
    capture.end()
    assert [int(line.split()[0]) for line in "".join(said).splitlines()] == list(range(2000))


def test_silence_tells_nothing_and_leaves_nothing(tap: Tap) -> None:
    said: list[str] = []
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        tap.open(said.append).end()
    assert said == [] and len(os.listdir("/proc/self/fd")) == before


def test_a_child_that_outlives_its_prediction(capfd: pytest.CaptureFixture[str]) -> None:
    """What it prints later is in the log of the process, not in the next prediction; and it may print."""
    first: queue.SimpleQueue[str] = queue.SimpleQueue()
    second: list[str] = []
    code = "import sys; print('early', flush=True); sys.stdin.readline(); print('late')"
    with process_log() as log, contextlib.closing(Tap()) as tap:
        capture = tap.open(first.put)
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
            assert first.get(timeout=10) == "early\n"
            capture.end()
            capture = tap.open(second.append)
            assert child.stdin is not None
            child.stdin.write(b"go\n")
            child.stdin.close()
            assert child.wait() == 0
            os.write(1, b"mine\n")
            capture.end()
        assert os.read(log, 100) == b"late\n"
    assert first.empty() and second == ["mine\n"]


def test_two_at_once_are_refused(tap: Tap) -> None:
    capture = tap.open(print)
    with pytest.raises(RuntimeError, match="captured already"):
        tap.open(print)
    capture.end()


def test_the_users_code_closes_the_descriptors(tap: Tap) -> None:
    said: list[str] = []
    capture = tap.open(said.append)
    os.write(1, b"last words\n")
    os.close(1)
    os.close(2)
    capture.end()
    assert said == ["last words\n"]
    capture = tap.open(said.append)
    os.write(2, b"again\n")
    capture.end()
    assert said == ["last words\n", "again\n"]


# -- coroutines ------------------------------------------------------------------------------------------------------------------


def test_coroutines_have_pages_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = io.StringIO()
    monkeypatch.setattr(sys, "stdout", own)
    monkeypatch.setattr(sys, "stderr", own)
    undo = printing.install()
    said: dict[int, list[str]] = {i: [] for i in range(5)}

    async def one(i: int) -> None:
        page = printing.Page(said[i].append, asyncio.get_running_loop())
        printing.PAGE.set(page)
        for n in range(50):
            print(f"{i}:{n}", file=sys.stderr if n % 2 else None)
            await asyncio.sleep(0)  # workload
        await asyncio.to_thread(print, f"{i}:thread")
        print("no end of a line", end="")
        page.end()
        print("too late")

    async def all_of_them() -> None:
        print("nobody's")
        await asyncio.gather(*map(one, said))

    try:
        asyncio.run(all_of_them())
    finally:
        undo()
    for i, texts in said.items():
        assert "".join(texts) == "".join(f"{i}:{n}\n" for n in range(50)) + f"{i}:thread\nno end of a line"
    assert own.getvalue() == "nobody's\n" + "too late\n" * 5


def test_a_lone_line_leaves_at_once_and_many_together() -> None:
    said: list[str] = []

    async def prints() -> None:
        page = printing.Page(said.append, asyncio.get_running_loop())
        page.write("first\n")
        assert said == ["first\n"]
        for i in range(1000):
            page.write(f"{i}\n")
        while len("".join(said).splitlines()) < 1001:
            await asyncio.sleep(0)  # workload
        page.end()

    asyncio.run(prints())
    assert "".join(said) == "first\n" + "".join(f"{i}\n" for i in range(1000))
    assert len(said) < 100
