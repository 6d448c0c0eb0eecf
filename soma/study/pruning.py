"""Which trials are not worth going on with: optuna's pruners by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna import pruners
from optuna.pruners import BasePruner, NopPruner

from soma.errors import StudyError
from soma.study.sampling import quiet

PRUNERS = ("median", "percentile", "hyperband", "halving")


def pruner_of(name: Any, options: Mapping[str, Any], planned: int | None = None) -> BasePruner:
    """The pruner of a study.

    Args:
        name: one of `PRUNERS`, a pruner of optuna's, or None, which prunes nothing. "median" ends a trial whose best value so far is
            strictly worse than the median of the completed trials at the same step, "percentile" one that is not in the best quarter.
            Both begin when an eighth of the planned trials has completed, at least one and at most five, which is optuna's own default
            (`n_startup_trials`).
        options: further arguments of optuna's pruner.
        planned: how many trials there will be; None: no end.

    Raises:
        StudyError: an unknown name, or an option that it does not have.
    """
    if name is None:
        return NopPruner()
    if isinstance(name, BasePruner):
        return name
    if name not in PRUNERS:
        raise StudyError(f"pruner={name!r}: one of {', '.join(map(repr, PRUNERS))}, a pruner of optuna's, or None")
    kinds: Any = {"median": pruners.MedianPruner, "percentile": pruners.PercentilePruner, "hyperband": pruners.HyperbandPruner,
                  "halving": pruners.SuccessiveHalvingPruner}
    given: dict[str, Any] = {}
    if name in ("median", "percentile"):
        given["n_startup_trials"] = 5 if planned is None else max(1, min(5, planned // 8))
    if name == "percentile":
        given["percentile"] = 25.0
    try:
        with quiet():
            made: BasePruner = kinds[name](**{**given, **options})
    except (TypeError, ValueError) as e:
        raise StudyError(f"pruner={name!r}: {e}") from e
    return made
