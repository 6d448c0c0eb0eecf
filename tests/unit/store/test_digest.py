"""`digest`: equal for equal values and different for different ones, in any process; and names what has no such content."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import math
import operator
import os
import pathlib
import pickle
import re
import socket
import struct
import subprocess
import sys
import threading
import types
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma.errors import IdentityError
from soma.store import combine, digest
from soma.transport.codec import decode, encode

ROOT = str(Path(soma.__file__).parents[1])


def same(one: Any, two: Any) -> bool:
    """The oracle: equal in type and content, floats by their bits, dicts with their order."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", two)
    if isinstance(one, complex):
        return same(one.real, two.real) and same(one.imag, two.imag)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return same(list(one.items()), list(two.items()))
    if isinstance(one, (set, frozenset)):
        left = list(two)
        for item in one:
            at = next((n for n, other in enumerate(left) if same(item, other)), None)
            if at is None:
                return False
            del left[at]
        return not left
    return bool(one == two)


hashable = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.binary(), st.complex_numbers()),
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)), max_leaves=6)
values = st.recursive(
    hashable | st.binary().map(bytearray),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.tuples(inner), st.tuples(inner, inner), st.sets(hashable, max_size=3),
                            st.dictionaries(hashable, inner, max_size=3), st.lists(st.integers() | st.floats()), st.lists(st.text())),
    max_leaves=25)


def trip(value: Any) -> Any:
    """There and back, as the cache does it."""
    packed = encode(value)
    return decode(packed.body, [bytearray(b) for b in packed.buffers])


@given(values)
def test_copies_are_equal(value: Any) -> None:
    assert digest(copy.deepcopy(value)) == digest(value)
    assert digest(trip(value)) == digest(value)


@given(values, values)
def test_equal_exactly_where_the_oracle_says_so(one: Any, two: Any) -> None:
    assert (digest(one) == digest(two)) is same(one, two)


@given(values, st.data())
def test_a_change_of_one_part_shows(value: Any, data: st.DataObject) -> None:
    changed = mutated(value, data)
    assert (digest(value) == digest(changed)) is same(value, changed)


def mutated(value: Any, data: st.DataObject) -> Any:
    """The value with one part, somewhere, replaced, removed or doubled."""
    if isinstance(value, (list, tuple)) and value:
        at = data.draw(st.integers(0, len(value) - 1))
        parts = list(value)
        match data.draw(st.sampled_from(["inside", "inside", "remove", "double", "swap"])):
            case "inside":
                parts[at] = mutated(parts[at], data)
            case "remove":
                del parts[at]
            case "double":
                parts.insert(at, parts[at])
            case "swap":
                parts[0], parts[at] = parts[at], parts[0]
        return type(value)(parts)
    if isinstance(value, dict) and value:
        key = data.draw(st.sampled_from(list(value)))
        return {k: mutated(v, data) if k is key else v for k, v in value.items()}
    return data.draw(values)


def nan(payload: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_0000 | payload))[0]  # type: ignore[no-any-return]


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    y: Any = 0


@dataclasses.dataclass
class Spot:
    x: Any
    y: Any = 0


class Text(str):
    pass


class Bag(set):  # type: ignore[type-arg]
    pass


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: Any) -> None:
        self.a = a


Pair = collections.namedtuple("Pair", "x y")

LOOKALIKES: list[Any] = [
    0, 0.0, -0.0, False, "0", b"0", bytearray(b"0"), "", b"", None, [], (), {}, set(), frozenset(), 0j, complex(0.0, -0.0), 1, 1.0, True,
    "1", b"1", (1,), [1], {1}, frozenset({1}), {1: 1}, {1: 1.0}, {1: True}, {True: 1}, [[1]], [(1,)],
    ([1],), [1, [1]], [[1], 1], ["a", "b"],
    ["ab"], ["ab", ""], ["", "ab"], "ab", "a\0b", [1, 2, 3], [1, [2, 3]], [[1, 2], 3], (1, 2, 3), {1: 2, 3: 4}, {3: 4, 1: 2},
    [1, 2, 3, 4], {1, 2, 3, 4}, 2**63 - 1, 2**63, 2**64, -(2**63), -1, 255, 256, [2**63 - 1], [2**63], [1.0], [1.0, 1], [1, 1.0], [True, 1],
    math.nan, -math.nan, nan(1), nan(2), math.inf, -math.inf, [math.nan], [nan(1)], np.float64(1), np.float32(1), np.int64(1),
    np.int8(1), np.uint8(1), np.bool_(True), np.array(1), np.array(1.0), np.array([1]), np.array([[1]]), np.array([1.0]),
    np.array([1], np.int8), np.array([1], np.uint8), np.array([1], ">i8"), np.array([1], "<i4"), np.array([True]), np.array(["1"]),
    np.array([b"1"]), np.array([1], object), np.array([1.0], object), np.array(["1"], object), np.array([], float), np.array([], int),
    np.zeros((0, 2)), np.zeros((2, 0)), np.array([1], "M8[s]"), np.array([1], "M8[ms]"), np.array([1], "m8[s]"), np.array([-0.0]),
    np.array([0.0]), np.array([0.0], np.float16), np.str_("1"), np.bytes_(b"1"), np.datetime64(1, "s"), np.array([(1, 2)], "i4,i4"),
    np.array([(1, 2)], [("a", "i4"), ("b", "i4")]), np.array([(1, 2)], [("b", "i4"), ("a", "i4")]), np.array([[1, 2]], "i4"),
    np.dtype("i4"), np.dtype("i8"), np.int32, np.ma.masked_array([1], [False]), np.ma.masked_array([1], [True]),
    collections.OrderedDict(), collections.OrderedDict({1: 1}), collections.Counter(), collections.Counter({1: 1}),
    collections.defaultdict(int), collections.defaultdict(list), collections.deque(), collections.deque([1]), collections.deque([1], 5),
    range(0), range(1), range(0, 1, 2), slice(1), slice(0, 1), datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), datetime.time(0), datetime.timedelta(1), datetime.UTC,
    decimal.Decimal("1"), decimal.Decimal("1.0"), fractions.Fraction(1), uuid.UUID(int=1), pathlib.PurePosixPath("1"),
    pathlib.PureWindowsPath("1"), Path("1"), Path("1/2"), Colour.RED, Colour.BLUE, Level.LOW, Point(1), Point(1.0), Point(2), Frozen(1),
    Frozen(2), Spot(1), Point, Spot, Text("1"), Text("ab"), Bag(), Bag({1}), Slotted(1), Slotted(2), Pair(1, 2), Pair(1, 3), Ellipsis,
    NotImplemented, int, float, len, max, print, os, sys, os.path.join, json_ := __import__("json"), json_.loads, json_.dumps,
    functools.partial(max, 1), functools.partial(max, 2), functools.partial(min, 1), operator.itemgetter(1), operator.itemgetter("1"),
    operator.attrgetter("a"), re.compile("a"), re.compile("a", re.IGNORECASE), re.compile(b"a"), "a".upper, "b".upper, "a".lower,
    types.SimpleNamespace(), types.SimpleNamespace(a=1), types.MappingProxyType({}), list[int], list[str], int | str, int | bytes,
    ValueError(), ValueError("a"), TypeError("a"), "\ud800", "\udc00", "\ud800\udc00", "\U00010000",
    np.random.default_rng(1), np.random.default_rng(2), uuid.uuid4, lambda: 1, lambda: 2,
]


def test_what_looks_alike_differs() -> None:
    seen: dict[str, Any] = {}
    for value in LOOKALIKES:
        key = digest(value)
        assert key not in seen, f"{value!r} and {seen[key]!r}"
        seen[key] = value


STORABLE = [value for value in LOOKALIKES if not isinstance(value, types.MappingProxyType)]


@pytest.mark.parametrize("value", STORABLE, ids=lambda v: f"{type(v).__name__} {re.sub(' at 0x[0-9A-Fa-f]+', '', repr(v)):.40}")
def test_what_was_stored_comes_back_equal(value: Any) -> None:
    assert digest(trip(value)) == digest(value)


def test_it_is_forty_hex_digits() -> None:
    assert re.fullmatch("[0-9a-f]{40}", digest({"a": [1]}))
    assert re.fullmatch("[0-9a-f]{40}", digest(1))


def test_whether_parts_are_shared_does_not_count() -> None:
    part, big = [[1], {"a": (2, [3])}], list(range(1000))
    assert digest([part, part]) == digest([part, copy.deepcopy(part)])
    assert digest([big, big]) == digest([big, list(big)])
    point = Point(part, np.arange(3))
    assert digest({"a": point, "b": point}) == digest({"a": point, "b": copy.deepcopy(point)})


def test_doubling_again_and_again_ends() -> None:
    value: Any = [[0.5]]
    for _ in range(200):
        value = [value, value]
    assert digest(value) == digest(pickle.loads(pickle.dumps(value)))


def test_depth_is_no_limit() -> None:
    def nested(depth: int) -> Any:
        value: Any = []
        for _ in range(depth):
            value = [value]
        return value

    assert digest(nested(20_000)) == digest(nested(20_000)) != digest(nested(20_001))


def test_the_order_of_attributes_does_not_count_and_that_of_a_dict_does() -> None:
    one, two = types.SimpleNamespace(a=1, b=2), types.SimpleNamespace(b=2, a=1)
    assert digest(one) == digest(two)
    assert digest({"a": 1, "b": 2}) != digest({"b": 2, "a": 1})


# -- cycles --------------------------------------------------------------------------------------------------------------------


class Linked:
    def __init__(self, value: Any) -> None:
        self.value, self.links = value, []  # type: ignore[var-annotated]


def ring(values: list[Any]) -> list[Linked]:
    nodes = [Linked(value) for value in values]
    for n, node in enumerate(nodes):
        node.links = [nodes[n - 1], nodes[(n + 1) % len(nodes)]]
    return nodes


def test_cycles_end_and_copies_of_them_are_equal() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    nodes = ring(list(range(50)))
    for value in (loop, [loop, loop], nodes, nodes[7], {"a": nodes, "b": [loop]}):
        assert digest(value) == digest(pickle.loads(pickle.dumps(value)))
    assert digest(loop) != digest([1, [1]])


def test_a_part_of_a_cycle_has_one_digest_however_one_comes_to_it() -> None:
    nodes = ring(["a", "b", "a", "b", "a", "c"])
    alone = [digest([node]) for node in nodes]
    others = pickle.loads(pickle.dumps(nodes))
    assert [digest([node]) for node in others] == alone
    assert len(set(alone)) == 6
    assert len({digest(node) for node in ring(["a", "b", "a", "b"])}) == 2


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
def test_rings_are_equal_if_nobody_who_walks_them_could_tell(one: list[str], two: list[str]) -> None:
    """The oracle walks as far as it takes to tell two automata of this size apart, in both directions."""
    depth = len(one) + len(two)
    walk = [[values[n % len(values)] for n in range(-depth, depth)] for values in (one, two)]
    assert (digest(ring(one)[0]) == digest(ring(two)[0])) is (walk[0] == walk[1])


def test_a_set_of_what_refers_to_it_has_no_order() -> None:
    def group() -> Any:
        members = [Linked(name) for name in "abcdef"]
        together = set(members)
        for member in members:
            member.links = [together]
        return members[0]

    assert digest(group()) == digest(group())


# -- the same everywhere -------------------------------------------------------------------------------------------------------

PROGRAM = """
import collections, dataclasses, enum, sys
import numpy as np
from soma.store import combine, digest

@dataclasses.dataclass
class Point:
    x: int
    tags: set

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

class Bag(set):
    pass

words = {"w%d" % n for n in range(200)}
for value in (words, frozenset(words), {"a": words}, Point(1, words), [Point(n, {str(n), "x"}) for n in range(3)], Colour.RED,
              {Colour.RED, Colour.BLUE}, Bag(words), np.arange(5.0), collections.OrderedDict(a=1), Point, lambda x: x in {"a", "b", "c"},
              (c for c in ()).__class__, {(1, "a"), (2, "b")}, {frozenset({"a", "b"}), frozenset({"c"})}, ValueError("x"), print):
    print(digest(value))
print(combine("a", None, "b"))
"""


def run(program: str, seed: str, *arguments: str, **options: Any) -> str:
    environment = dict(os.environ, PYTHONHASHSEED=seed, PYTHONPATH=ROOT)
    return subprocess.run([sys.executable, "-W", "error", "-c", program, *arguments], check=True, capture_output=True, text=True,
                          env=environment, **options).stdout


def test_every_process_gives_the_same() -> None:
    first = run(PROGRAM, "0")
    assert len(first.split()) == len(set(first.split())) == 18
    assert {run(PROGRAM, seed) for seed in ("1", "2", "random")} == {first}


def test_digests_of_this_format_stay() -> None:
    """Whoever changes one of these empties every cache there is: then `walk._FORM` gets another number."""
    assert [digest(value) for value in (None, 1.5, "a", [1, "b"], {"k": (b"x",)}, np.arange(3, dtype="<f8"))] == FIXED


FIXED = [
    "26cf31822021e073da77fdf6a057a1dd0c152f83", "4a3f6c72c586911394c08237eae94f481a2ed437",
    "0e5752de0a86dc562c142daa71ee6d50a9a2fb83", "1d30e14cba60c67f2bd39c1ecc665b2500b70fbf",
    "516d3b2db8ad94541f821102abb8c6343236adac", "63ac1735e13588b0f1153aeb1b5dd0612b8a340e",
]


# -- combine -------------------------------------------------------------------------------------------------------------------


def test_keys_of_parts() -> None:
    keys = [combine("ab", "c"), combine("a", "bc"), combine("abc"), combine("abc", ""), combine("abc", None), combine(), combine(None)]
    assert len(set(keys)) == len(keys)
    assert combine("a", None) == combine("a", None)


# -- what has no content -------------------------------------------------------------------------------------------------------


class Net:
    def __init__(self, part: Any) -> None:
        self.net = {"a": [part]}


def generator() -> Any:
    yield 1


class Raises:
    def __reduce__(self) -> Any:
        raise ValueError("not today")


class Strange:
    def __reduce__(self) -> Any:
        return 7


class Target:
    pass


TARGET = Target()
UNSTABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "lock": (threading.Lock, "_thread.lock"),
    "condition": (threading.Condition, "lock"),
    "local": (threading.local, "_thread._local"),
    "generator": (generator, "generator"),
    "object": (object, "object()"),
    "weak reference": (lambda: weakref.ref(TARGET), "ReferenceType"),
    "frame": (lambda: sys._getframe(), "frame"),
    "dict view": (lambda: {}.keys(), "dict_keys"),
    "raises": (Raises, "ValueError: not today"),
    "strange": (Strange, "gave 7"),
}


@pytest.mark.parametrize("kind", UNSTABLE)
def test_what_has_no_stable_content_is_named(kind: str) -> None:
    make, said = UNSTABLE[kind]
    with pytest.raises(IdentityError, match=re.escape(said)) as caught:
        digest(Net(make()), "x")
    assert caught.value.path.startswith("x.net['a'][0]")
    with pytest.raises(IdentityError) as caught:
        digest(make())
    assert caught.value.path.startswith("value")


def test_open_files_and_sockets_are_refused() -> None:
    with open(os.devnull) as file, contextlib.closing(socket.socket()) as connection:
        for thing in (file, connection):
            with pytest.raises(IdentityError, match="cannot be taken apart"):
                digest({"k": thing})


@pytest.mark.parametrize(("value", "path"), [
    ([1, (2, {"k": object()})], "value[1][1]['k']"),
    (Point(1, [object()]), "value.y[0]"),
    (Frozen(object()), "value.__getstate__()[0]"),
    (Slotted([object()]), "value.a[0]"),
    (np.array([1, object()], object), "value.flat[1]"),
    (collections.OrderedDict(a=[object()]), "value['a'][0]"),
    (collections.deque([1, object()]), "value[1]"),
    (functools.partial(max, key=threading.Lock()), "value.keywords['key']"),
    ({(1, threading.Lock()): 1}, "value.<key <tuple>>[1]"),
    (frozenset({threading.Lock()}), "value.<item>"),
])
def test_the_path_leads_to_the_part(value: Any, path: str) -> None:
    with pytest.raises(IdentityError) as caught:
        digest(value)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path} cannot be hashed stably: ")


def test_memory_running_out_is_no_identity() -> None:
    class Huge:
        def __reduce__(self) -> Any:
            raise MemoryError

    with pytest.raises(MemoryError):
        digest(Huge())
