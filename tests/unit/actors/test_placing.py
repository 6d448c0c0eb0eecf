"""Tags: what a machine is marked with, and what is said when that is not enough."""

from __future__ import annotations

from typing import Any

import pytest

import soma
from soma.actors.placing import check_tags, marks
from soma.errors import PlacementError


@pytest.mark.parametrize(("asked", "there", "text"), [
    ((), (), ""), ((), ("big",), ""), (("big",), ("big", "ssd"), ""),
    (("gpu",), ("big", "ssd"), "actor X asked for the tags 'gpu'; this machine has 'big', 'ssd'"),
    (("big", "gpu"), ("big",), "actor X asked for the tags 'big', 'gpu'; this machine has 'big'"),
    (("gpu",), (), "actor X asked for the tags 'gpu'; this machine has none"),
])
def test_all_tags_must_be_there(asked: tuple[str, ...], there: tuple[str, ...], text: str) -> None:
    if not text:
        return check_tags("actor X", asked, there)
    with pytest.raises(PlacementError) as caught:
        check_tags("actor X", asked, there)
    assert str(caught.value) == text


@pytest.mark.parametrize(("given", "found"), [((), ()), (["a", "b", "a"], ("a", "b")), (("x" * 256,), ("x" * 256,))])
def test_marks(given: Any, found: tuple[str, ...]) -> None:
    assert marks(given) == found


@pytest.mark.parametrize("wrong", ["gpu", ["ok", ""], [3], ["x" * 257], (None,), [f"t{i}" for i in range(65)]])
def test_what_is_no_tag_is_named_and_starts_nothing(wrong: Any) -> None:
    with pytest.raises(ValueError, match="tags="):
        soma.init(tags=wrong)
    assert not soma.is_initialized()
