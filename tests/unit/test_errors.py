"""The tree of errors: it is what its drawing says, and every error survives the journey to another process."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma.errors as errors
from soma.errors import (
    ActorDiedError,
    ActorInitError,
    ActorTaskError,
    DeathCause,
    IdentityError,
    NotFittedError,
    NotSerializableError,
    SomaError,
)

ALL = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, SomaError)]
TEXT = "some text, with ümlauts\nand two lines"
SAMPLES = [
    *(cls(TEXT) for cls in ALL if not issubclass(
        cls, (ActorDiedError, ActorTaskError, NotSerializableError, NotFittedError, IdentityError))),
    NotFittedError("scale", TEXT),
    IdentityError("Scale.lock", TEXT),
    *(cls("Worker a1", DeathCause("signal", signal="SIGKILL", pid=7), "no") for cls in ALL if issubclass(cls, ActorDiedError)),
    *(cls("args[0].net._lock", "a lock stays in its process", "drop it") for cls in ALL if issubclass(cls, NotSerializableError)),
    ActorTaskError("KeyError", "'k'", "Traceback ...", "it could not be unpickled"),
]


def drawn_tree() -> dict[str, str]:
    """Child to parent, as the module's docstring draws it."""
    parents: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^([ │├└─]*)([A-Z]\w+)( {2,}|$)", line):
            depth, name = len(found[1]), found[2]
            path = [p for p in path if p[0] < depth]
            if path:
                parents[name] = path[-1][1]
            path.append((depth, name))
    return parents


def test_the_drawing_is_the_tree() -> None:
    tree = {c.__name__: next(b.__name__ for b in c.__bases__ if issubclass(b, SomaError)) for c in ALL if c is not SomaError}
    assert drawn_tree() == tree


def test_every_error_has_a_sample() -> None:
    assert {type(e) for e in SAMPLES} == set(ALL)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("travel", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "pickle"])
def test_an_error_arrives_as_it_left(error: SomaError, travel: object) -> None:
    arrived = travel(error)  # type: ignore[operator]
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.args == error.args
    assert repr(arrived) == repr(error)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_can_be_raised_and_given_notes_and_a_cause(error: SomaError) -> None:
    with pytest.raises(type(error)) as caught:
        raise copy.copy(error) from ValueError("why")
    caught.value.add_note("in actor a1")
    assert caught.value.__notes__ == ["in actor a1"]
    assert caught.value.__cause__ is not None
    assert caught.value.__traceback__ is not None


@pytest.mark.parametrize(("name", "also"), [
    ("GetTimeoutError", TimeoutError), ("NotSerializableError", TypeError), ("ArgumentNotSerializableError", TypeError),
    ("NotInitializedError", RuntimeError), ("AlreadyInitializedError", RuntimeError), ("ForkedClientError", RuntimeError),
    ("ActorInitError", ActorDiedError),
])
def test_what_else_an_error_is(name: str, also: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), also)


CAUSES = st.builds(
    DeathCause,
    reason=st.sampled_from(["exited", "signal", "oom", "oom?", "killed", "init", "exit_actor", "cancelled", "owner", "shutdown",
                            "restarts", "unknown"]),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.sampled_from(["SIGKILL", "SIGSEGV", "SIGTERM"]),
    pid=st.integers(0, 2**22),
    stderr_tail=st.text(max_size=200),
    detail=st.text(max_size=200),
    rss=st.integers(0, 2**50),
    limit=st.integers(0, 2**50),
)


@given(CAUSES, st.sampled_from(["no", "maybe"]), st.lists(CAUSES, max_size=3).map(tuple))
def test_a_death_is_explained_whatever_it_was(cause: DeathCause, executed: str, history: tuple[DeathCause, ...]) -> None:
    error = ActorDiedError("Worker a1", cause, executed, history)  # type: ignore[arg-type]
    arrived = pickle.loads(pickle.dumps(error))
    assert (arrived.actor, arrived.cause, arrived.executed, arrived.history) == ("Worker a1", cause, executed, history)
    assert str(error).startswith("Worker a1 died: ")
    assert cause.detail.rstrip() in str(error)
    assert ("never begun" in str(error)) == (executed == "no") or "never begun" in cause.describe()


@pytest.mark.parametrize(("cause", "says"), [
    (DeathCause("signal", signal="SIGSEGV", pid=9), "process 9 was ended by SIGSEGV"),
    (DeathCause("exited", exit_code=3, pid=9), "process 9 exited with code 3"),
    (DeathCause("oom", pid=9, rss=300 * 2**20, limit=200 * 2**20), "300 MiB used, 200 MiB allowed"),
    (DeathCause("oom?", signal="SIGKILL", pid=9, rss=2**30), "SIGKILL while it used 1024 MiB"),
    (DeathCause("exited", exit_code=1, stderr_tail="first\nlast\n"), "  | first\n  | last"),
    (DeathCause("init", detail="ValueError: no such file"), "ValueError: no such file"),
])
def test_what_a_death_says(cause: DeathCause, says: str) -> None:
    assert says in str(ActorDiedError("Worker a1", cause))


def test_what_was_known_of_the_call_and_earlier_deaths_are_said() -> None:
    error = ActorInitError("Worker a1", DeathCause("restarts", pid=9), "no", (DeathCause("signal", signal="SIGKILL", pid=8),))
    assert "never begun" in str(error)
    assert "before that: process 8 was ended by SIGKILL" in str(error)
    assert (error.reason, error.signal, error.exit_code) == ("restarts", None, None)
