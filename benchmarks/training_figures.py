"""What is measured of training, and what soma promises about it."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.figures import Figure, Medians, Promise, Subject, against, of

REDUCED = tuple((ranks, mb) for ranks in (2, 4) for mb in (1, 10, 100))

FIGURES: tuple[Figure, ...] = (
    *(Figure(f"reduce_{ranks}_{mb}", f"all-reduce of {mb} MB float32 on {ranks} ranks", "ms") for ranks, mb in REDUCED),
    Figure("cnn_1", "a small CNN on digits, 1 rank", "samples/s", lower_is_better=False),
    Figure("cnn_2", "the same on 2 ranks", "samples/s", lower_is_better=False),
    Figure("mlp_1", "an MLP of 10 M parameters, 1 rank", "samples/s", lower_is_better=False),
    Figure("mlp_2", "the same on 2 ranks", "samples/s", lower_is_better=False),
    Figure("copies", "copies of that MLP in a rank's process", "×"),
    Figure("fedavg", "average of 50 states of 10 MB, weighted", "ms"),
    Figure("fedavg_ratio", "that average ÷ one NumPy pass over the same bytes, in turns", "×", charted=False),
)


def times_gloo(key: str) -> Callable[[Medians], float | None]:
    """How many times as quick as gloo."""

    def ratio(median: Medians) -> float | None:
        mine, theirs = median("soma", key), median("gloo", key)
        return None if mine is None or theirs is None else theirs / mine

    return ratio


PROMISES: tuple[Promise, ...] = (
    *(Promise(f"all-reduce of {mb} MB on {ranks} ranks: gloo ÷ soma", False, limit, "×", times_gloo(f"reduce_{ranks}_{mb}"))
      for mb, limit in ((100, 2.5), (10, 1.8)) for ranks in (2, 4)),
    Promise("the CNN on 2 ranks: soma ÷ DDP with gloo", False, 1, "×", against("cnn_2", "gloo")),
    Promise("the MLP on 2 ranks: soma ÷ DDP with gloo", False, 1, "×", against("mlp_2", "gloo")),
    Promise("FedAvg of 50 × 10 MB ÷ one NumPy pass", True, 1.5, "×", of("fedavg_ratio")),
    Promise("copies of the model in a rank's process, beyond the optimizer's", True, 2, "×", of("copies")),
)

TRAINING = Subject(
    "training", "Training on one machine", FIGURES, PROMISES, (),
    {**{f"reduce_{ranks}_{mb}": f"reduce_{ranks}" for ranks, mb in REDUCED}, **dict.fromkeys(("cnn_1", "cnn_2"), "cnn"),
     **dict.fromkeys(("mlp_1", "mlp_2"), "mlp"), **dict.fromkeys(("fedavg", "fedavg_ratio"), "fedavg"), "copies": "copies"},
    {"gloo": "DDP, gloo"})
