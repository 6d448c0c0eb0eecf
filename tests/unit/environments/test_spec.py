"""Requirements: one spelling, one key; and nothing but requirements passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.environments.spec import EnvironmentSpec, normalised, read_requirements


@pytest.mark.parametrize(("one", "other"), [
    ("Typing_Extensions >= 4", "typing-extensions>=4"),
    ("ruamel.yaml", "ruamel-yaml"),
    ("uvicorn[ Standard ]<1,>=0.30", "uvicorn[standard]>=0.30,<1"),
    ("six ; python_version > '3'", 'six; python_version>"3"'),
])
def test_equal_requirements_have_one_spelling(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)
    assert EnvironmentSpec((one,)).key() == EnvironmentSpec((other, one)).key()


REFUSED = [
    "--index-url https://evil.test", "-e .", "-r other.txt", "--config x", " --find-links /tmp", "-c c.txt", "./six", "../six",
    "/tmp/six.whl", "six @ https://evil.test/six.whl", "six @ file:///tmp/six.whl", "git+https://evil.test/six", "https://evil.test/six.whl",
    "file:six.whl",
    "six; rm -rf /", "six && id", "six | id", "$(id)", "`id`", "six$(id)", "six>1;id", "six\n--index-url x", "six\0", "", " ", "six six",
    "*", "six>", "six==", "a" * 1001, "six\u2028x",
]


def refusal(text: str) -> str:
    try:
        EnvironmentSpec((text,))
    except ValueError as e:
        return str(e)
    return "passed"


def test_all_else_is_refused() -> None:
    assert [text for text in REFUSED if not refusal(text).startswith("requirement ")] == []


@given(st.text(st.characters(codec="ascii"), max_size=12), st.text(st.sampled_from("-;|&$`<>()[]@/\\ '\"\n"), min_size=1, max_size=3))
def test_what_passes_never_looks_like_an_option_or_a_place(before: str, after: str) -> None:
    for text in (before + after, after + before, before + after + "six"):
        try:
            passed = normalised(text)
        except ValueError:
            continue
        assert passed[0].isalnum() and "/" not in passed and "@" not in passed and "\n" not in passed
        assert normalised(passed) == passed


@pytest.mark.parametrize("given", ["six", 3, [b"six"], [None]])
def test_wrong_types_are_said(given: object) -> None:
    with pytest.raises(TypeError, match="requirement"):
        EnvironmentSpec(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["3", "2.7", "3.11.2", "python3", "", "3.x"])
def test_a_python_is_a_version(version: str) -> None:
    with pytest.raises(ValueError, match="python="):
        EnvironmentSpec((), version)


@given(st.permutations(["numpy>=2", "six", "attrs==23.1", "rich<14"]))
def test_the_order_does_not_matter(order: list[str]) -> None:
    assert EnvironmentSpec(tuple(order)).key() == EnvironmentSpec(("attrs==23.1", "numpy>=2", "rich<14", "six")).key()


def test_what_differs_has_another_key() -> None:
    specs = [EnvironmentSpec(("six",)), EnvironmentSpec(("six>=1",)), EnvironmentSpec(("six", "attrs")), EnvironmentSpec(),
             EnvironmentSpec(("six",), "3.9")]
    keys = {spec.key() for spec in specs} | {specs[0].key(("/usr/lib/python",))}
    assert len(keys) == 6 and all(len(key) == 32 for key in keys)


def test_a_requirements_file(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("# what it needs\nsix>=1  # old\n\nnumpy>=2, \\\n  <3\n")
    assert read_requirements(path) == ("six>=1", "numpy<3,>=2")
    path.write_text("six\n\n--index-url https://evil.test\n")
    with pytest.raises(ValueError, match="txt, line 3: .*an option"):
        read_requirements(path)
