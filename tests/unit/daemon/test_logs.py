"""Lines come out as they went in however the bytes were cut; repeats are counted, never lost; files stay in bounds."""

import os
import stat
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.daemon.logs import LINE_BYTES, TAIL_BYTES, Dedup, LineBuffer, LogFile, Shown

text = st.text(st.sampled_from("aü€🎉\r\n \0"), max_size=40).map(str.encode)
streams = st.lists(text | st.binary(max_size=12) | st.just(b"x" * 30) | st.just(b"\r\n"), max_size=8).map(b"".join)


def naive_lines(data, limit):
    """Split what is all there at once."""
    *complete, rest = data.split(b"\n")
    for line in complete + [rest] * bool(rest):
        if line.endswith(b"\r") and len(line) <= limit + 1:
            line = line[:-1]
        if len(line) <= limit:
            yield line.decode("utf-8", "replace")
            continue
        half = cut_begun(line[:limit])
        yield f"{line[: limit - half].decode('utf-8', 'replace')} … [{len(line) - limit + half} bytes more]"


def is_begun(piece):
    try:
        piece.decode()
    except UnicodeDecodeError as e:
        return e.reason == "unexpected end of data" and e.start == 0
    return False


def cut_begun(kept):
    """How many bytes at the end begin a character that goes on behind it."""
    return next((n for n in (1, 2, 3) if n <= len(kept) and is_begun(kept[-n:])), 0)


@given(streams, st.lists(st.integers(0, 60), max_size=6), st.integers(4, 20))
def test_lines_do_not_depend_on_how_the_bytes_came(data, cuts, limit):
    buffer, lines = LineBuffer(limit, tail_bytes=9), []
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    for start, end in zip(edges, edges[1:], strict=False):
        lines += buffer.feed(data[start:end])
    assert lines + buffer.close() == list(naive_lines(data, limit))
    assert buffer.close() == []


@given(st.text(st.sampled_from("aü€🎉\n")), st.lists(st.integers(0, 60), max_size=6))
def test_the_tail_is_the_end_of_the_text(said, cuts):
    data = said.encode()
    buffer = LineBuffer(tail_bytes=7)
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    for start, end in zip(edges, edges[1:], strict=False):
        buffer.feed(data[start:end])
    assert said.endswith(buffer.tail)
    assert min(len(data), 7) - 3 <= len(buffer.tail.encode()) <= 7


def test_an_endless_line_takes_no_memory_and_is_told():
    buffer = LineBuffer()
    for _ in range(1000):
        assert buffer.feed(b"x" * 10_000) == []
    assert len(buffer._begun) == LINE_BYTES + 1 and len(buffer._tail) == TAIL_BYTES
    assert buffer.feed(b"\nnext\n") == [f"{'x' * LINE_BYTES} … [{10_000_000 - LINE_BYTES} bytes more]", "next"]


# -- repeats ------------------------------------------------------------------------------------------------------------

sayings = st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "z", ""]), st.sampled_from([0, 0, 1, 3]))
said = st.lists(sayings, max_size=40)


@given(said, st.integers(1, 3))
def test_every_line_is_shown_or_counted(said, remembered):
    dedup, shown, now = Dedup(window=5, remembered=remembered), [], 0.0
    for actor, line, later in said:
        now += later
        shown += dedup.feed(actor, line, now)
    shown += dedup.close()
    assert dedup.next_due() is None and dedup.close() == []
    total = Counter()
    for one in shown:
        total[one.line] += one.repeats or 1
    assert total == Counter(line for _, line, _ in said)


@given(said)
def test_repeats_as_a_plain_walk_counts_them(said):
    """With each window kept by hand, no order of remembering."""
    dedup, now, windows = Dedup(window=5), 0.0, {}
    for actor, line, later in said:
        now += later
        over = [(w, k) for k, w in windows.items() if w[1] <= now]
        expected = [Shown(first, k, n) for (first, _, n), k in sorted(over, key=lambda o: o[0][1]) if n]
        for _, k in over:
            del windows[k]
        if line == "":
            expected.append(Shown(actor, line))
        elif line not in windows:
            windows[line] = (actor, now + 5, 0)
            expected.append(Shown(actor, line))
        else:
            first, until, n = windows[line]
            windows[line] = (first, until, n + (first != actor))
            expected += [Shown(actor, line)] * (first == actor)
        assert sorted(map(str, dedup.feed(actor, line, now))) == sorted(map(str, expected))
        assert dedup.next_due() == min((until for _, until, n in windows.values() if n), default=None)


def test_five_actors_say_the_same():
    dedup = Dedup(window=5)
    assert [str(s) for actor in "abcdef" for s in dedup.feed(actor, "loading", 1.0)] == ["loading"]
    assert dedup.next_due() == 6.0
    assert dedup.due(5.9) == []
    assert [str(s) for s in dedup.due(6.0)] == ["loading [repeated 5x across actors]"]
    assert [str(s) for s in dedup.feed("f", "loading", 7.0)] == ["loading"]


# -- files --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "actor.log"


@given(pieces=st.lists(st.binary(max_size=15), max_size=20), again=st.booleans())
def test_a_file_holds_the_end_of_what_was_written(tmp_path_factory, pieces, again):
    path = tmp_path_factory.mktemp("log") / "actor.log"
    old = path.with_name("actor.log.1")
    log = LogFile(path, limit=20)
    for i, piece in enumerate(pieces):
        if again and i == len(pieces) // 2:
            log.close()
            log = LogFile(path, limit=20)
        log.write(piece)
    log.close()
    log.close()
    kept = (old.read_bytes() if old.exists() else b"") + path.read_bytes()
    assert b"".join(pieces).endswith(kept)
    assert path.stat().st_size <= 20 and (not old.exists() or old.stat().st_size <= 20)
    if sum(map(len, pieces)) <= 20:
        assert kept == b"".join(pieces)
    assert sorted(os.listdir(path.parent)) == ["actor.log"] + ["actor.log.1"] * old.exists()


def test_it_is_private_and_follows_no_link(path):
    before = os.umask(0)
    try:
        LogFile(path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(OSError):
        LogFile(path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
def test_a_full_disk_is_counted_and_told_when_there_is_room(path):
    log = LogFile(path)
    log.write(b"one\n")
    real, full = os.dup(log._fd), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._fd)
    log.write(b"two\n")
    log.write(b"three\n")
    assert (log.lost, log.problem) == (10, "No space left on device")
    os.dup2(real, log._fd)
    log.write(b"four\n")
    assert (log.lost, log.problem) == (0, "")
    log.close()
    assert path.read_text() == "one\n[10 bytes lost: No space left on device]\nfour\n"
    for fd in (real, full):
        os.close(fd)
    with pytest.raises(ValueError, match="closed"):
        log.write(b"five")
