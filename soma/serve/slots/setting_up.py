"""Loading and setting up, with what the front end is told of it."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soma import cluster
from soma.serve.schema import Signature, SignatureError, signature_of
from soma.serve.slots.attempt import print_traceback, text_of
from soma.serve.slots.inputs import Parameters
from soma.serve.slots.loading import Loaded, SourceError, load
from soma.serve.slots.terms import SetUp, Source


@dataclass(frozen=True, slots=True)
class Called:
    """A function that predictions or trainings call."""

    fn: Callable[..., Any]
    signature: Signature
    parameters: Parameters

    @classmethod
    def of(cls, fn: Callable[..., Any], owner: Any) -> Called:
        return cls(fn, signature_of(fn, owner), Parameters(fn, owner))


@dataclass(frozen=True, slots=True)
class Served:
    """A predictor and how its functions are called."""

    loaded: Loaded
    predict: Called
    train: Called | None

    def of(self, kind: str) -> Called:
        """What a prediction or a training calls."""
        if kind != "training":
            return self.predict
        if self.train is None:
            raise ValueError("there is nothing to train: the predictor has no train function")
        return self.train


def loaded(source: Source) -> Served:
    """Load it; raises what the user's module raises, and SourceError or SignatureError for what cannot be served."""
    from soma.serve.compat import install  # which itself stands upon slots

    directory = source.directory or os.path.dirname(os.path.abspath(source.file)) if source.file else source.directory
    if directory and os.path.isdir(directory):
        os.chdir(directory)
    install()
    found = load(source, cluster.get)
    train = None if found.train is None else Called.of(found.train, found.owner)
    return Served(found, Called.of(found.predict, found.owner), train)


def begun(served: Served) -> Awaitable[Any] | None:
    """Call the user's `setup`; what is left to await, if it is a coroutine."""
    setup = served.loaded.setup
    if setup is None:
        return None
    done = setup(**_weights(setup))
    return done if inspect.isawaitable(done) else None


def told(served: Served) -> SetUp:
    """That it went well."""
    found = served.loaded
    training = None if served.train is None else served.train.signature.to_json()
    return {"ok": True, "error": "", "signature": served.predict.signature.to_json(), "training": training,
            "has_healthcheck": found.healthcheck is not None, "is_async": found.is_async}


def failed(error: BaseException) -> SetUp:
    """That it did not; the traceback is printed, where there is one that says something."""
    if isinstance(error, (SourceError, SignatureError)):
        print(error, file=sys.stderr)
    else:
        print_traceback(error)
    said = str(error) if isinstance(error, (SourceError, SignatureError)) else f"{type(error).__name__}: {text_of(error)}"
    return {"ok": False, "error": said, "signature": None, "training": None, "has_healthcheck": False, "is_async": False}


def _weights(setup: Callable[..., Any]) -> dict[str, Any]:
    """Cog's one parameter of `setup`: where the weights are, from the environment or beside the file."""
    if "weights" not in inspect.signature(setup).parameters:
        return {}
    found = os.environ.get("COG_WEIGHTS") or ("weights" if os.path.exists("weights") else None)
    return {"weights": Path(found) if found is not None and "://" not in found else found}
