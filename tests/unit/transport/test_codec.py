"""Values arrive as they left, writable; what cannot be sent is named by its path."""

import collections
import dataclasses
import enum
import functools
import gc
import math
import pickle
import struct
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from soma.errors import ArgumentNotSerializableError, DecodeError, NotSerializableError, ResultNotSerializableError
from soma.transport import codec, faults, tensors
from soma.transport.codec import decode, encode, encode_call, size_of
from soma.transport.modules import only_installed


def trip(value: Any) -> Any:
    """There and back, through copies of the buffers as an arena or a socket makes them."""
    packed = encode(value)
    return decode(packed.body, [bytearray(b) for b in packed.buffers])


def same(one: Any, two: Any) -> bool:
    """Equal in type and value, NaN equal to NaN, arrays bit for bit."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", two)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[k], two[k]) for k in one)
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    return bool(one == two)


# -- plain values --------------------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.complex_numbers(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.tuples(inner, inner), st.dictionaries(st.text(), inner, max_size=4),
                            st.frozensets(st.integers())),
    max_leaves=20,
)


@given(plain)
@settings(deadline=None)
def test_plain_values_arrive_as_they_left(value: Any) -> None:
    assert same(trip(value), value)


@given(st.tuples(plain, plain), st.dictionaries(st.text(), plain, max_size=3))
@settings(deadline=None)
def test_calls_arrive_as_they_left(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert same(decode(encode_call(args, kwargs).body), (args, kwargs))


def test_nan_keeps_its_payload() -> None:
    odd = struct.unpack("d", b"\x01\x02\x03\x00\x00\x00\xf8\xff")[0]
    assert math.isnan(odd)
    assert struct.pack("d", trip([[odd]])[0][0]) == struct.pack("d", odd)


def test_subclasses_are_not_taken_for_plain() -> None:
    class Level(enum.IntEnum):
        LOW = 1

    class Text(str):
        pass

    assert type(trip((Level.LOW,))[0]) is Level
    assert type(trip({"a": Text("x")})["a"]) is Text
    for wrap, unwrap in NESTS:
        assert type(unwrap(trip(wrap(Level.LOW)))) is Level
        assert type(unwrap(trip(wrap(Text("x"))))) is Text


NESTS: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = [
    (lambda v: ("id", {"x": v}, 1.5), lambda t: t[1]["x"]), (lambda v: [[1, v]], lambda t: t[0][1]),
    (lambda v: {"a": (1, v)}, lambda t: t["a"][1]), (lambda v: {"a": {"b": v}}, lambda t: t["a"]["b"]),
    (lambda v: (1, [[v]]), lambda t: t[1][0][0]),
]


@pytest.mark.parametrize("n", range(len(NESTS)))
def test_an_array_is_not_taken_for_plain_however_deep_it_lies(n: int) -> None:
    wrap, unwrap = NESTS[n]
    packed = encode(wrap(np.arange(100_000)))
    assert len(packed.buffers) == 1 and len(packed.body) < 1000
    assert same(unwrap(trip(wrap(np.arange(3)))), np.arange(3))
    assert isinstance(trip(True), bool)


def test_aliases_and_cycles_survive() -> None:
    shared: list[Any] = [1]
    loop: list[Any] = [shared, shared]
    loop.append(loop)
    back = trip(loop)
    assert back[0] is back[1]
    assert back[2] is back


def test_size_counts_body_and_buffers() -> None:
    packed = encode(np.zeros(1000))
    assert size_of(packed) == len(packed.body) + 8000


# -- numpy ---------------------------------------------------------------------------------------------------------------------

BIG = np.arange(24_000.0).reshape(20, 30, 40)
frozen = BIG.copy()
frozen.setflags(write=False)

ARRAYS = {
    "big": BIG,
    "small": np.arange(6).reshape(2, 3),
    "fortran": np.asfortranarray(BIG),
    "small fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "permuted": BIG.transpose(1, 2, 0),
    "gaps": BIG[::2, :, 1:7],
    "backwards": BIG[::-1, ::-1],
    "broadcast": np.broadcast_to(np.arange(1000.0), (9, 1000)),
    "0-d": np.array(3.5),
    "empty": np.zeros((3, 0, 2)),
    "read-only": frozen,
    "small read-only": frozen[0, 0],
    "from bytes": np.frombuffer(bytes(range(256)) * 64, np.uint16),
    "big endian": np.arange(1000, dtype=">i4"),
    "structured": np.zeros(600, [("a", "<i2"), ("b", "<f8", (2,)), ("c", "S3")]),
    "aligned structured": np.ones(600, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "dates": np.arange("2020", "2080", dtype="M8[D]"),
    "deltas": np.arange(1000).astype("m8[ms]"),
    "text": np.array(["a", "bcd"] * 900),
    "bytes": np.array([b"a", b"bcd"]),
    "no bytes": np.zeros(3, "S0"),
    "void": np.zeros(5, "V7"),
    "half": np.arange(9000, dtype=np.float16),
    "complex": np.arange(3000) * 1j,
    "bool": np.arange(9000) % 3 == 0,
    "long double": np.arange(1000, dtype=np.longdouble),
    "objects": np.array([[1, "a"], [None, (2,)]], dtype=object),
    "strings": np.array(["a", "longer than a few bytes, so that it is on the heap"], dtype=np.dtypes.StringDType()),
    "nan payload": np.array([0x7FF0000000000BAD, 0xFFF8000000000001], np.uint64).view(np.float64),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_arrive_as_they_left(name: str) -> None:
    array = ARRAYS[name]
    back = trip({"it": array})["it"]
    assert type(back) is np.ndarray
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    if array.dtype.hasobject:
        assert back.tolist() == array.tolist()
    else:
        assert back.tobytes() == array.tobytes()
    assert back.flags.writeable
    if array.dtype.isalignedstruct:
        assert back.dtype.isalignedstruct
    if array.dtype.itemsize and not any(s <= 0 for s in array.strides) and name != "gaps":
        assert back.strides == array.strides


def gapless_dtypes() -> Any:
    return st.one_of(hnp.scalar_dtypes(), hnp.array_dtypes())


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_view_of_any_array(data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(data.draw(gapless_dtypes()), hnp.array_shapes(min_dims=1, max_dims=4, max_side=6)))
    view = array[data.draw(hnp.basic_indices(array.shape, allow_ellipsis=False))]
    if not isinstance(view, np.ndarray):
        view = np.asarray(view)
    view = view.transpose(data.draw(st.permutations(range(view.ndim))))
    back = trip(view)
    assert same(back, view)
    assert back.flags.writeable


def test_large_arrays_are_not_copied_on_either_side() -> None:
    array = np.arange(10_000.0)
    packed = encode(array)
    assert len(packed.body) < 200
    assert np.shares_memory(np.frombuffer(packed.buffers[0], np.uint8), array)
    buffer = bytearray(packed.buffers[0])
    back = decode(packed.body, [buffer])
    back[0] = 7
    assert struct.unpack_from("d", buffer)[0] == 7


def test_buffers_are_flat_and_in_order() -> None:
    packed = encode([np.asfortranarray(BIG), np.arange(1000.0), b"x" * 10_000])
    assert [(b.format, b.ndim, b.nbytes) for b in packed.buffers] == [("B", 1, BIG.nbytes), ("B", 1, 8000)]


def test_small_arrays_stay_in_band() -> None:
    assert encode([np.arange(100), np.ones(3, np.float32)]).buffers == ()


def test_read_only_buffers_are_copied_so_that_values_are_writable() -> None:
    packed = encode(np.arange(1000.0))
    back = decode(packed.body, [bytes(packed.buffers[0])])
    back[:] = 0
    assert back.flags.writeable


def test_one_array_twice_is_one_array() -> None:
    array = np.arange(1000.0)
    one, two = trip([array, array])
    assert one is two


def test_the_sender_is_not_made_writable() -> None:
    trip(frozen)
    assert not frozen.flags.writeable


class Tagged(np.ndarray):
    pass


def test_numpy_subclasses() -> None:
    masked = np.ma.masked_array(np.arange(2000.0), np.arange(2000) % 2 == 0)
    back = trip(masked)
    assert type(back) is np.ma.MaskedArray
    assert np.array_equal(back.mask, masked.mask)
    assert np.array_equal(back.filled(-1), masked.filled(-1))
    tagged = trip(np.arange(9.0).view(Tagged))
    assert type(tagged) is Tagged
    assert tagged.flags.writeable
    records = np.rec.array([(1, "a")], dtype=[("n", "i4"), ("s", "U1")])
    assert trip(records).n[0] == 1


def test_other_peoples_buffers_travel_too() -> None:
    payload = pickle.PickleBuffer(bytearray(b"x" * 9000))
    packed = encode(payload)
    assert len(packed.buffers) == 1
    assert bytes(decode(packed.body, packed.buffers)) == b"x" * 9000
    assert trip([pickle.PickleBuffer(bytearray(b"tiny"))]) == [bytearray(b"tiny")]


# -- code ----------------------------------------------------------------------------------------------------------------------


def test_functions_travel() -> None:
    base = 10

    def add(x: int) -> int:
        return x + base

    assert trip(add)(5) == 15
    assert trip(functools.partial(add, 7))() == 17
    assert trip(math.sqrt) is math.sqrt


@dataclasses.dataclass
class Point:
    x: int
    y: "Point | None" = None


def test_instances_travel() -> None:
    assert trip(Point(1, Point(2))) == Point(1, Point(2))


def run(code: str, *, stdin: bytes = b"") -> bytes:
    """What a fresh interpreter prints, one that has the path of this one."""
    code = f"import sys; sys.path[:] = {sys.path!r}\n" + code
    done = subprocess.run([sys.executable, "-c", code], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


RECEIVE = "from soma.transport.codec import decode\nprint(decode(sys.stdin.buffer.read()).shout())"


def test_classes_of_main_travel_by_value() -> None:
    body = run("""
from soma.transport.codec import encode
factor = 3
class Voice:
    def shout(self): return "ho" * factor
sys.stdout.buffer.write(encode(Voice()).body)
""")
    assert run(RECEIVE, stdin=body).strip() == b"hohoho"


def test_modules_that_cannot_be_imported_travel_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "class Voice:\n    def shout(self): return word\nword = 'hey'\n"
    handmade = types.ModuleType("soma_test_handmade")
    exec(source, vars(handmade))
    monkeypatch.setitem(sys.modules, handmade.__name__, handmade)
    assert run(RECEIVE, stdin=encode(handmade.Voice()).body).strip() == b"hey"

    (tmp_path / "soma_test_sibling.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    import soma_test_sibling  # type: ignore[import-not-found]

    packed = encode(soma_test_sibling.Voice())
    assert b"hey" not in packed.body, "what can be imported travels by name"
    assert run(RECEIVE, stdin=packed.body).strip() == b"hey"


def test_what_is_not_installed_travels_by_value_while_other_machines_take_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "soma_test_beside.py").write_text("class Voice:\n    def shout(self): return word\nword = 'hey'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import soma_test_beside  # type: ignore[import-not-found]

    undo = only_installed()
    try:
        packed = encode(soma_test_beside.Voice())
        assert b"hey" in packed.body and run(RECEIVE, stdin=packed.body).strip() == b"hey"
        assert b"ndarray" not in encode(Path("x")).body and len(encode(np.int64).body) < 100, "what is installed still goes by name"
    finally:
        undo()
    assert b"hey" not in encode(soma_test_beside.Voice()).body
    undo()  # once more does nothing


def test_torch_and_numpy_are_not_imported_for_plain_values() -> None:
    out = run("""
from soma.transport.codec import decode, encode
class C: pass
assert decode(encode([C(), {1: "a"}]).body)
print([name for name in ("numpy", "torch") if name in sys.modules])
""")
    assert out.strip() == b"[]"


# -- registered types ----------------------------------------------------------------------------------------------------------


class Ref:
    def __init__(self, name: str) -> None:
        self.name = name


class SubRef(Ref):
    pass


def test_registered_types_reduce_themselves_and_leave_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_reducers", dict(codec._reducers))

    def reduce(ref: Ref, notes: list[object]) -> tuple[Any, ...]:
        notes.append(ref)
        return Ref, (ref.name + "'",)

    codec.register(Ref, reduce)
    one, two = Ref("one"), Ref("two")
    packed = encode_call((one, {"deep": [two, one]}), {"sub": SubRef("sub")})
    assert packed.notes == (one, two)
    (first, inner), kwargs = decode(packed.body)
    assert (first.name, inner["deep"][0].name, kwargs["sub"].name) == ("one'", "two'", "sub")
    assert inner["deep"][1] is first


# -- what cannot be sent -------------------------------------------------------------------------------------------------------


class Net:
    def __init__(self) -> None:
        self.weights = [1, 2]
        self._lock = threading.Lock()


class Model:
    def __init__(self) -> None:
        self.net = Net()


class Slotted:
    __slots__ = ("good", "bad")

    def __init__(self) -> None:
        self.good, self.bad = 1, threading.Lock()


class Careful:
    """Sends something else than its attributes."""

    def __init__(self, bad: bool) -> None:
        self.lock = threading.Lock()
        self.bad = bad

    def __getstate__(self) -> dict[str, Any]:
        return {"kept": threading.Lock() if self.bad else 1}


class Refuses:
    def __reduce__(self) -> Any:
        raise ValueError("not me")


class Hides:
    """Its reducer makes what cannot be pickled: nobody can reach it."""

    def __reduce__(self) -> Any:
        return Hides, (threading.Lock(),)


def by_closure() -> Any:
    lock = threading.Lock()
    return lambda: lock


def by_global() -> Any:
    scope: dict[str, Any] = {"lock": threading.Lock(), "__name__": "__main__"}
    exec("def fn():\n    return [lock for _ in range(2)]", scope)
    return scope["fn"]


def by_class() -> Any:
    class Local:
        lock = threading.Lock()

    return Local()


CASES: dict[str, tuple[Any, str, str]] = {
    "attribute": (Model(), ".net._lock", "cannot pickle '_thread.lock'"),
    "key": ({"a": [0, {"b c": threading.Lock()}]}, "['a'][1]['b c']", "lock"),
    "tuple": ((1, (2, threading.Lock())), "[1][1]", "lock"),
    "slots": (Slotted(), ".bad", "lock"),
    "set": (frozenset([by_closure()]), ".<closure lock>", "lock"),
    "closure": (by_closure(), ".<closure lock>", "lock"),
    "global": (by_global(), ".<global lock>", "lock"),
    "local class": (by_class(), ".__class__.lock", "lock"),
    "partial": (functools.partial(print, threading.Lock()), ".args[0]", "lock"),
    "method": (Model().net.__init__, ".__self__._lock", "lock"),
    "deque": (collections.deque([1, threading.Lock()]), "[1]", "lock"),
    "generator": ([(x for x in "a")], "[0]", "cannot pickle 'generator'"),
    "reducer": ({"r": Refuses()}, "['r']", "ValueError: not me"),
    "hidden": ([1, Hides()], "[1]", "lock"),
    "state": ([Careful(False), Careful(True)], "[1]", "lock"),
    "object array": (np.array([1, threading.Lock()], dtype=object), ".flat[1]", "lock"),
    "after a good twin": ([Refuses, [Point(1)] * 3, Refuses()], "[2]", "not me"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_part_at_fault_is_named(name: str) -> None:
    value, path, problem = CASES[name]
    with pytest.raises(NotSerializableError) as caught:
        encode(value)
    error = caught.value
    assert error.path.startswith("value") and error.path.endswith(path)
    assert problem in error.problem
    assert error.__cause__ is not None
    if name not in ("set", "state"):
        assert error.path == "value" + path
    if problem == "lock":
        assert "constructor" in error.hint or name in ("hidden", "state")


def test_calls_name_their_argument() -> None:
    with pytest.raises(ArgumentNotSerializableError, match=r"^args\[1\]\.net\._lock cannot be sent to another process"):
        encode_call((1, Model()), {"k": 2})
    with pytest.raises(ArgumentNotSerializableError, match=r"^kwargs\['k'\] cannot be sent") as caught:
        encode_call((1,), {"k": threading.Lock()})
    assert isinstance(caught.value, TypeError)


def test_the_class_of_the_error_is_the_callers_choice() -> None:
    with pytest.raises(ResultNotSerializableError, match=r"^the result of f\[0\]"):
        encode([threading.Lock()], path="the result of f", error=ResultNotSerializableError)


def test_too_deep_is_said_so() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotSerializableError, match="nested too deeply"):
        encode(deep)
    while deep:  # freed level by level
        deep = deep[0]


def test_the_walk_is_bounded() -> None:
    lock = threading.Lock()
    assert faults.paths([("v", [[i] for i in range(faults.LIMIT * 2)] + [[lock]])], [lock]) == {}


def test_repr_that_raises_does_not_hide_the_fault() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no text")

    with pytest.raises(NotSerializableError, match="RuntimeError.*lock"):
        encode({Odd(): threading.Lock()})


def test_memory_errors_and_interrupts_pass() -> None:
    class Raises:
        def __init__(self, kind: type[BaseException]) -> None:
            self.kind = kind

        def __reduce__(self) -> Any:
            raise self.kind

    for kind in (MemoryError, KeyboardInterrupt):
        with pytest.raises(kind):
            encode([Raises(kind)])
    with pytest.raises(NotSerializableError, match="SystemExit"):  # a value must not end who sends it
        encode([Raises(SystemExit)])


# -- what cannot be read -------------------------------------------------------------------------------------------------------


class Explodes:
    def __setstate__(self, state: Any) -> None:
        raise state["what"]("while arriving")

    def __init__(self, what: type[BaseException]) -> None:
        self.what = what


def test_decoding_failures_are_told() -> None:
    with pytest.raises(DecodeError, match="ValueError: while arriving") as caught:
        trip(Explodes(ValueError))
    assert isinstance(caught.value.__cause__, ValueError)
    for kind in (MemoryError, KeyboardInterrupt):
        with pytest.raises(kind):
            trip(Explodes(kind))


def test_any_truncated_body_is_a_decode_error() -> None:
    """Arbitrary bytes are not tried: a pickle may ask for any amount of memory, which is why only known peers are read."""
    body = encode([Point(1, Point(2)), {"k": (1.5, "text", 1 << 80)}, np.arange(5), math.sqrt]).body
    for end in range(len(body)):
        with pytest.raises(DecodeError):
            decode(body[:end])


def test_missing_and_short_buffers_are_decode_errors() -> None:
    packed = encode(np.arange(1000.0))
    for buffers in ([], [b"short"]):
        with pytest.raises(DecodeError):
            decode(packed.body, buffers)
    with pytest.raises(DecodeError):
        decode(packed.body[:-5], packed.buffers)


def test_a_gpu_tensor_is_refused_with_a_hint() -> None:
    """The part of the reducer that decides, on a stand-in: there may be no GPU here."""
    torch = pytest.importorskip("torch")
    tensor = types.SimpleNamespace(layout=torch.strided, is_quantized=False, is_nested=False, device=torch.device("cuda:0"))
    with pytest.raises(NotSerializableError, match="cuda:0") as caught:
        tensors.reduce_tensor(tensor, tensors.Spans())
    assert caught.value.hint == "send tensor.cpu()"


def test_nothing_of_a_value_is_kept_once_it_is_encoded() -> None:
    class Thing:
        def __init__(self) -> None:
            self.data = np.zeros(100_000)

    thing = Thing()
    gone = weakref.ref(thing), weakref.ref(thing.data)
    gc.disable()
    try:
        codec.encode_call((thing,), {"k": lambda: 1})
        del thing
        assert [g() for g in gone] == [None, None]
    finally:
        gc.enable()
