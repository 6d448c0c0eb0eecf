"""Headers: every message arrives as it left, and whatever else arrives is refused, quickly, in little memory."""

from __future__ import annotations

import dataclasses
import random
import time
import tracemalloc
import types
import typing
from typing import Annotated, Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soma.config import LIMITS, PROTOCOL_VERSION
from soma.errors import ProtocolError, VersionMismatchError
from soma.transport import messages as m
from soma.transport.frames import CallKey, Name, Natural, check_parts, message, pack, unpack
from soma.transport.messages import catalogue, control, node

KINDS = [cls for _, cls in catalogue()]
CALL = m.Call(b"c" * 16, "d-0011223344556677", "fit", 1, 0, 1500, ((b"o" * 20, "d-00", ""),))

EXAMPLES = max(30, settings().max_examples // 5)
"""Of each kind of message."""

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,37}", fullmatch=True)
texts = st.text(max_size=20)
integers = st.integers(-(2**63), 2**64 - 1)
plain = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False) | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(texts, inner, max_size=3), max_leaves=8)


amounts = st.integers(0, 4096)
BOUNDED: dict[Any, tuple[st.SearchStrategy[Any], Any, list[Any]]] = {
    node.Number: (st.integers(0, 2**63 - 1), 5, [-1, 2**63, 1.0]),
    control.Request: (st.binary(max_size=32), b"r", [b"r" * 33, "r"]),
    control.NodeName: (st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,63}", fullmatch=True), "n1", ["", "../x", "a/b", "x" * 65, b"n"]),
    control.NodeName | None: (st.none() | st.just("n1"), None, ["", "../x"]),
    control.PublicKey: (st.binary(min_size=32, max_size=32), b"k" * 32, [b"", b"k" * 31, "k" * 32]),
    control.Line: (st.from_regex(r"[ -~]{0,20}", fullmatch=True), "line", ["x" * 257, "a\nb", b"line"]),
    control.Text: (texts, "text", ["x" * 20_000, b"text"]),
    control.Seconds: (st.floats(0, 1e6).map(abs), 1.5, [-1.0, float("inf"), "1"]),
    control.Totals: (st.dictionaries(st.sampled_from(["CPU", "memory", "x"]), amounts), {"CPU": 2.0}, [{"CPU": 1e9}, {"CPU": -1}, ()]),
    control.Facts: (st.dictionaries(st.sampled_from(["load", "gpus"]), amounts), {"load": 1.0}, [{"memory": -1}, ()]),
    control.Plain: (st.dictionaries(st.sampled_from(["a", "b"]), amounts | texts), {"a": 1}, [{"a": 1e300}, ()]),
    control.Versions: (st.just({"protocol": 1, "soma": "0.1", "python": "3.11"}), {"protocol": 1, "soma": "0.1", "python": "3.11"},
                       [{}, {"protocol": "1", "soma": "", "python": ""}]),
}
"""Bounded fields by their annotation: a strategy, an example, and what is refused."""


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """What a field of this annotation may hold."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint == Name:
        return names
    if hint == Natural:
        return st.integers(0, 2**32 - 1)
    if hint == CallKey:
        return st.binary(min_size=16, max_size=16)
    if (bounded := BOUNDED.get(hint)) is not None:
        return bounded[0]
    if origin is Annotated:
        raise AssertionError(f"no strategy for {hint}: add one here")
    if origin is typing.Union or origin is types.UnionType:
        return st.one_of(*map(values_of, args))
    if origin is tuple:
        if args[1:] == (...,):
            return st.lists(values_of(args[0]), max_size=4).map(tuple)
        return st.tuples(*map(values_of, args))
    if origin is dict:
        return st.dictionaries(texts, values_of(args[1]), max_size=3)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        Any: plain, float: st.floats(allow_nan=False),
        str: texts, bytes: st.binary(max_size=20), int: integers, bool: st.booleans(), type(None): st.none()}
    return simple[hint]


def built(cls: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{f.name: values_of(hints[f.name]) for f in dataclasses.fields(cls)})


def header(*fields: Any) -> bytes:
    return typing.cast(bytes, msgpack.packb(fields))


def refused(frame: bytes, says: str | None = None) -> None:
    """Refused with a ProtocolError, in a few milliseconds and a few megabytes."""
    tracemalloc.start()
    try:
        start = time.perf_counter()
        with pytest.raises(ProtocolError, match=says):
            unpack(frame)
        took = time.perf_counter() - start
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20
    assert took < 0.25  # 20 ms at worst on an idle machine, most of it the trace


@pytest.mark.parametrize("cls", KINDS, ids=lambda c: c.__name__)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_every_message_arrives_as_it_left(cls: type, data: st.DataObject) -> None:
    sent = data.draw(built(cls))
    got = unpack(pack(sent))
    assert type(got) is cls
    assert got == sent
    assert [type(v) for v in dataclasses.astuple(got)] == [type(v) for v in dataclasses.astuple(sent)]


@pytest.mark.parametrize("cls", KINDS, ids=lambda c: c.__name__)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_every_field_refuses_what_it_is_not(cls: type, data: st.DataObject) -> None:
    hints = typing.get_type_hints(cls, include_extras=True)
    made = data.draw(built(cls))
    fields = [getattr(made, f.name) for f in dataclasses.fields(cls)]
    i = data.draw(st.integers(0, len(fields) - 1))
    hint = hints[dataclasses.fields(cls)[i].name]
    if (bounded := BOUNDED.get(hint)) is not None:
        fields[i] = data.draw(st.sampled_from(bounded[2]))
        with pytest.raises(ProtocolError, match=cls.__name__):
            unpack(header(PROTOCOL_VERSION, cls.kind, *fields))  # type: ignore[attr-defined]
        return
    wrong: list[Any] = [1.5, object]
    wrong += [True] if hint is not bool else [1, 0]
    wrong += [None] if type(None) not in typing.get_args(hint) else []
    wrong += [b"bytes"] if hint is str or hint == Name else ["text"] if hint is bytes or hint == CallKey else [b"", ""]
    wrong += [{}] if typing.get_origin(hint) is not dict else [()]
    if hint == Name:
        wrong += ["", "../daemon", "/tmp/x", "a/b", ".hidden", "nul\0", "x" * 39, "ä", "a\n"]
    if hint == Natural:
        wrong += [-1, 2**32]
    if hint == CallKey:
        wrong += [b"", b"x" * 15, b"x" * 17]
    if typing.get_origin(hint) is tuple:
        numbers = hint == tuple[Natural, ...]
        wrong += [((),), (("a", b"b"), None), ((b"id", "../x", ""),), (-1,) if numbers else (1,)]
    fields[i] = data.draw(st.sampled_from([w for w in wrong if w is not object]))
    with pytest.raises(ProtocolError, match=cls.__name__):
        unpack(header(PROTOCOL_VERSION, cls.kind, *fields))  # type: ignore[attr-defined]


def test_the_names_of_fields_are_said() -> None:
    good = list(dataclasses.astuple(CALL))
    refused(header(PROTOCOL_VERSION, 1, *good[:4], True, *good[5:]), "Call.attempt is a bool")
    refused(header(PROTOCOL_VERSION, 1, good[0], "../x", *good[2:]), "Call.caller holds")
    refused(header(PROTOCOL_VERSION, 1, *good, 0), "Call has 7 fields, the header 8")
    refused(header(PROTOCOL_VERSION, 1, *good[:-1]), "Call has 7 fields, the header 6")


def test_another_version_is_named_with_ours() -> None:
    with pytest.raises(VersionMismatchError, match=rf"version 99, this process {PROTOCOL_VERSION}"):
        unpack(header(99, 1, "whatever", "fields", "it", "has"))
    refused(header(True, 1), r"\[version, kind")
    refused(header("1", 1), r"\[version, kind")
    refused(header(PROTOCOL_VERSION, True), r"\[version, kind")
    refused(header(PROTOCOL_VERSION, 9999), "unknown message kind 9999")


def nested(depth: int) -> bytes:
    return b"\x93\x01\x19\x81\xa1k" + b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize("frame", [
    pytest.param(bytes(LIMITS.header_bytes + 1), id="over 64 KiB"),
    pytest.param(b"", id="empty"),
    pytest.param(b"\xc1", id="no msgpack"),
    pytest.param(pack(CALL) + b"\0", id="trailing byte"),
    pytest.param(pack(CALL)[:-1], id="truncated"),
    pytest.param(msgpack.packb({"version": 1}), id="a map"),
    pytest.param(msgpack.packb([]), id="an empty array"),
    pytest.param(b"\x01", id="a number"),
    pytest.param(b"\x91" * 10_000, id="nested 10,000 deep"),
    pytest.param(nested(10_000), id="a field nested 10,000 deep"),
    pytest.param(nested(LIMITS.header_depth), id="one level too deep"),
    pytest.param(b"\xdd\xff\xff\xff\xff", id="array of 4 G"),
    pytest.param(b"\x93\x01\x19\xdf\xff\xff\xff\xff", id="map of 4 G"),
    pytest.param(b"\x93\x01\x19\xc6\xff\xff\xff\xff", id="bytes of 4 GB"),
    pytest.param(b"\x93\x01\x19\xdb\xff\xff\xff\xff", id="text of 4 GB"),
    pytest.param(b"\x93\x01\x19" + b"\xdc\xff\x00" * 20_000, id="arrays that claim all that follows"),
    pytest.param(b"\x93\x01\x19" + b"\xdc\x08\x00" * 20_000, id="arrays that claim just what is allowed"),
    pytest.param(b"\x93\x01\x19\xdc\xff\xf0" + b"\x80" * 0xfff0, id="empty maps"),
    pytest.param(b"\x93\x01\x19\x81\xa1k\xd6\xff\0\0\0\1", id="timestamp"),
    pytest.param(b"\x93\x01\x19\x81\xa1k\xd4\x05\0", id="extension"),
    pytest.param(b"\x93\x01\x19\x81\xa1k\xa1\xff", id="text that is no UTF-8"),
    pytest.param(b"\x93\x01\x19\x82\xa1k\x01\xa1k\x02", id="a key twice"),
    pytest.param(b"\x93\x01\x19\x81\x01\x01", id="a key that is a number"),
    pytest.param(b"\x93\x01\x19\x81\x80\x01", id="a key that is a map"),
    pytest.param(b"\x93\x01\x19\x81\x91\x01\x01", id="a key that is an array"),
])
def test_refused(frame: bytes) -> None:
    refused(frame)


def test_the_deepest_that_is_allowed() -> None:
    assert unpack(nested(LIMITS.header_depth - 1)) != m.Event({})


def test_a_header_too_long_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="at most 65536"):
        pack(m.Event({"k": "x" * LIMITS.header_bytes}))


def test_random_and_mutated_bytes_are_only_ever_refused() -> None:
    """20,000 frames: noise, and good headers with a few bytes changed, left out, doubled or cut off."""
    rng = random.Random(7)
    goldens = [pack(golden(cls)) for cls in KINDS]
    accepted = 0
    for n in range(20_000):
        if n % 4 == 0:
            frame = rng.randbytes(rng.randrange(200))
        else:
            frame = mutated(rng, rng.choice(goldens))
        try:
            unpack(frame)
            accepted += 1
        except ProtocolError:
            continue
    assert accepted < 10_000  # a changed letter in a name is still a name


def golden(cls: type) -> Any:
    hints = typing.get_type_hints(cls, include_extras=True)
    values: dict[Any, Any] = {
        Name: "d-0011", Natural: 3, CallKey: b"c" * 16, str: "text", bytes: b"bytes", int: 7, bool: True, m.Notes: CALL.refs,
        int | None: 5, dict[str, Any]: {"num_cpus": 1.0, "env": {"A": "b"}, "more": (None, True)},
        m.Cause | tuple[()]: ("signal", None, "SIGKILL", 1, "", "", 0, 0, False), tuple[m.Cause, ...]: (), tuple[str, ...]: ("line",),
        tuple[tuple[str, bytes], ...]: (("a", b"c"),)}
    values |= {hint: example for hint, (_, example, _) in BOUNDED.items()}
    values |= {tuple[Natural, ...]: (1, 2), tuple[tuple[Name, Natural], ...]: (("a.0", 7),), tuple[dict[str, float], ...]: ({"CPU": 1.0},),
               tuple[Name, ...]: ("aa", "bb")}
    return cls(**{f.name: values[hints[f.name]] for f in dataclasses.fields(cls)})


def mutated(rng: random.Random, frame: bytes) -> bytes:
    out = bytearray(frame)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(out))
        match rng.randrange(5):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                del out[at:at + rng.randrange(1, 5)]
            case 2:
                out[at:at] = out[at:at + rng.randrange(1, 9)]
            case 3:
                out[at] ^= 1 << rng.randrange(8)
            case 4:
                out[at:at] = rng.choice([b"\xdd\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\x81\x80\x80", b"\xd6\xff\0\0\0\1"])
        if not out:
            return b""
    return bytes(out)


def test_numbers_stay_what_they_are() -> None:
    """Append only: a number that was ever used means the same for ever."""
    assert {cls.__name__: kind for kind, cls in catalogue()} == {
        "Call": 1, "Reply": 2, "Credit": 3, "ObjectValue": 4, "ActorUpdate": 5, "Answer": 6, "Deadlock": 7, "Stop": 8, "Said": 9,
        "Cancel": 20, "Fetch": 21, "Hold": 22, "PeerDied": 23, "LogLines": 24, "Event": 25, "Hello": 40, "CreateActor": 41, "Watch": 42,
        "Kill": 43, "FindActor": 44, "Blocked": 45, "Unblocked": 46, "ActorReady": 47, "Leaving": 48, "LeaseWorker": 49, "ReturnWorker":
        50, "Ask": 51, "CheckPlacing": 52,
        "Join": 60, "Welcome": 61, "Register": 62, "Registered": 63, "Fenced": 64, "Heartbeat": 65, "Beat": 66, "Leave": 67,
        "Query": 68, "Report": 69, "Refused": 70, "Shutdown": 71, "Drain": 72, "CreateGroup": 80, "RemoveGroup": 81,
        "Launch": 90, "EndProcess": 91, "ConfirmEnd": 92, "Look": 93, "ForgetActor": 94, "Spawned": 95, "Halted": 96, "Exited": 97,
        "Looked": 98, "Detach": 99, "ReadLog": 100, "LogPart": 101, "Kept": 102}
    with pytest.raises(ValueError, match="kind 1 is taken by Call"):
        message(1)(m.Call)


def test_parts_are_counted_and_weighed() -> None:
    check_parts([b""] * LIMITS.parts)
    with pytest.raises(ProtocolError, match="1027 parts"):
        check_parts([b""] * (LIMITS.parts + 1))

    class Huge(bytes):
        def __len__(self) -> int:
            return LIMITS.message_bytes

    with pytest.raises(ProtocolError, match="bytes"):
        check_parts([b"x", Huge()])


def test_a_pickle_is_not_even_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    monkeypatch.setattr(pickle, "loads", lambda *a, **k: pytest.fail("pickle.loads was called"))
    evil = b"\x80\x05cposix\nsystem\n\x8c\x04true\x85R."
    refused(evil)
    refused(header(PROTOCOL_VERSION, 22, b"o" * 20, evil, 1), "Hold.holder is a bytes")
    assert unpack(header(PROTOCOL_VERSION, 22, evil, "d-00", 1)).object_id == evil
