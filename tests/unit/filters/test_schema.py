"""What a value must look like: text and back, values that fit and that do not, filters that can and cannot meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma.errors import SchemaError
from soma.filters.schema import Schema, cannot_meet, problem_with

dims = st.one_of(st.integers(0, 4), st.sampled_from(["n", "m", "*"]))
shapes = st.one_of(st.none(), st.lists(dims, max_size=4).map(tuple))
DTYPES = ["float64", "float32", "int64", "int8", "bool", "complex128", "floating", "integer", "number", "any"]
schemas = st.builds(Schema, st.sampled_from(DTYPES), shapes)
arrays = st.builds(lambda dtype, shape: np.zeros(shape, dtype), st.sampled_from(DTYPES[:6]), st.lists(st.integers(0, 4), max_size=4))


@given(schemas)
def test_text_and_back(schema: Schema) -> None:
    assert Schema.of(str(schema)) == schema
    assert Schema.of(schema) is schema


def fits(array: Any, schema: Schema) -> dict[str, int] | None:
    """By the definition: sizes that names stand for, or None."""
    kinds = {"floating": "f", "integer": "iu", "number": "fiuc", "any": "fiucb"}
    if schema.dtype in kinds and array.dtype.kind not in kinds[schema.dtype]:
        return None
    if schema.dtype not in kinds and array.dtype.name != schema.dtype:
        return None
    if schema.shape is None:
        return {}
    if len(schema.shape) != array.ndim:
        return None
    sizes: dict[str, int] = {}
    for dim, size in zip(schema.shape, array.shape, strict=True):
        if isinstance(dim, int) and dim != size or dim != "*" and isinstance(dim, str) and sizes.setdefault(dim, size) != size:
            return None
    return sizes


@given(arrays, schemas)
def test_values(array: Any, schema: Schema) -> None:
    sizes: dict[str, int] = {}
    assert (problem_with(array, schema, sizes) == "") == (fits(array, schema) is not None)


@st.composite
def fitting(draw: st.DrawFn, array: Any) -> Schema:
    """A schema that the array fits."""
    family = {"f": "floating", "i": "integer", "c": "complexfloating", "b": "bool"}[array.dtype.kind]
    dtype = draw(st.sampled_from([array.dtype.name, family, "any"] + ["number"] * (family != "bool")))
    return Schema(dtype, draw(st.one_of(st.none(), st.just(tuple(draw(st.sampled_from([s, "*", f"n{s}"])) for s in array.shape)))))


@given(arrays, st.data())
def test_two_schemas_that_one_value_fits_can_meet(array: Any, data: st.DataObject) -> None:
    one, other = data.draw(fitting(array)), data.draw(fitting(array))
    assert problem_with(array, one, {}) == problem_with(array, other, {}) == ""
    assert cannot_meet(one, other) == ""


@pytest.mark.parametrize(("given_", "wanted"), [("float64", "int64"), ("[3]", "[4]"), ("[n]", "[n, m]"), ("floating", "int8"),
                                                ("float32[n, 3]", "float32[n, 4]"), ("bool", "number")])
def test_two_that_cannot_meet(given_: str, wanted: str) -> None:
    assert cannot_meet(Schema.of(given_), Schema.of(wanted)) == f"gives {Schema.of(given_)}, and {Schema.of(wanted)} is wanted"


def test_dots_stand_for_any_number_of_dimensions() -> None:
    schema = Schema.of("float64[n, ..., 3]")
    shapes = [(1, 3), (1, 2, 3), (1, 2, 2, 3), (3,), (1, 2)]
    assert [problem_with(np.zeros(s), schema, {}) == "" for s in shapes] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(("spec", "error"), [("float64[n", ValueError), ("", ValueError), ("[-1]", ValueError), ("[..., ...]", ValueError),
                                             (3, TypeError), ({"shape": (True,)}, ValueError), (("float64", ("a b",)), ValueError)])
def test_what_is_no_schema(spec: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Schema.of(spec)
    with pytest.raises(error, match="input_schema"):
        soma.filter(lambda x: x, input_schema=spec)


@pytest.mark.parametrize("spec", [np.float64, np.dtype("f8"), "float64"])
def test_ways_to_write_a_dtype(spec: Any) -> None:
    assert Schema.of({"dtype": spec, "shape": ("n", ...)}) == Schema("float64", ("n", "..."))


def test_a_tensor_has_torchs_names() -> None:
    torch = pytest.importorskip("torch")
    assert problem_with(torch.zeros(2, dtype=torch.bfloat16), Schema.of("bfloat16[2]"), {}) == ""
    assert problem_with(torch.zeros(2, dtype=torch.bfloat16), Schema.of("floating"), {}) == ""
    assert problem_with(torch.zeros(2), Schema.of("float64"), {}) == "float64 is wanted, and this is float32[2]"


class TestWhenAGraphIsCompiled:
    def step(self, wants: Any, gives: Any) -> Any:
        return soma.filter(lambda x: x, input_schema=wants, output_schema=gives)

    def test_filters_that_cannot_meet_are_named(self) -> None:
        g = soma.Graph(self.step(None, "float64[n, 3]") >> self.step("float64[n, 4]", None))
        with pytest.raises(
            SchemaError, match=r"'function' >> 'function_2': 'function' gives float64\[n, 3\], and float64\[n, 4\] is wanted",
        ):
            g.compile()

    def test_sizes_are_carried_through(self) -> None:
        """Rows and columns keep their names through a filter, so the third one is known to be wrong."""
        g = soma.Graph(self.step(None, "[10, 3]") >> self.step("[n, m]", "[m, n]") >> self.step("[3, 11]", None))
        with pytest.raises(SchemaError, match=r"'function_2' gives any\[3, 10\], and any\[3, 11\] is wanted"):
            g.compile()
        soma.Graph(self.step(None, "[10, 3]") >> self.step("[n, m]", "[m, n]") >> self.step("[3, 10]", None)).compile()

    def test_one_name_for_two_sizes(self) -> None:
        a, b, join = self.step(None, "[3]"), self.step(None, "[4]"), self.step("[n]", None)
        with pytest.raises(SchemaError, match=r"'function_2' gives any\[4\], and any\[3\] is wanted"):
            soma.Graph((a | b) >> join).compile()

    def test_an_input_that_is_not_connected(self) -> None:
        join = self.step({"other": "[n]"}, None)
        with pytest.raises(SchemaError, match="declares an input from 'other', which is not connected to it; it gets 'function'"):
            soma.Graph(self.step(None, None) >> join).compile()
