"""The classes that predictors and their outputs are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, dataclass_transform

from soma.serve.compat.files import Path
from soma.serve.slots.scope import Scope, current_scope


class BaseRunner:
    """A predictor: override `run` (or `predict`, as it was called before), and `setup` for what is done once, before."""

    def setup(self, weights: Path | str | None = None) -> None:
        """Load the model. `weights`: where they are, if that is said from outside."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """One prediction. NotImplementedError if the class has neither `run` nor `predict`."""
        if type(self).predict is not BaseRunner.predict:
            return self.predict(*args, **kwargs)
        raise NotImplementedError(f"{type(self).__name__} has no run")

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """`run`, under its earlier name."""
        return self.run(*args, **kwargs)

    @property
    def scope(self) -> Scope:
        """Of the prediction that runs here."""
        return current_scope()

    def record_metric(self, key: str, value: Any, mode: str = "replace") -> None:
        """As `current_scope().record_metric`."""
        self.scope.record_metric(key, value, mode=mode)


class BasePredictor(BaseRunner):
    """`BaseRunner`, under its earlier name."""


@dataclass_transform()
class BaseModel:
    """An output of several values: a subclass is a dataclass, made with these options; with `auto_dataclass=False` it stays as it is."""

    def __init_subclass__(cls, *, auto_dataclass: bool = True, **options: Any) -> None:
        super().__init_subclass__()
        if auto_dataclass:
            dataclass(**options)(cls)
