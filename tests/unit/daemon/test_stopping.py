"""How a daemon is asked to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from soma.daemon.stopping import FILE, Stopping, ask, asked


def test_what_was_asked_last_counts_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    assert asked(tmp_path, 7.0) == Stopping(7.0, "it was told to end by a signal")
    ask(tmp_path, 30.0, "maintenance")
    ask(tmp_path, 0.0, "now")
    assert asked(tmp_path, 7.0) == Stopping(0.0, "now")
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("grace", [-1.0, float("inf"), float("nan")])
def test_a_time_that_is_none(tmp_path: Path, grace: float) -> None:
    with pytest.raises(ValueError, match="seconds, at least 0"):
        ask(tmp_path, grace, "")
