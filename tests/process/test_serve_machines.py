"""A server whose slots are on other machines: the same answers, and the same words about a death."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleets import made
from serve_lives import written

import soma

PREDICTOR = """
import os
import soma

class Predictor:
    def predict(self, text: str = "", dies: bool = False) -> dict:
        if dies:
            os.kill(os.getpid(), 9)
        print("seen", len(text))
        return {"text": text, "node": soma.get_runtime_context().get_node_id()}
"""


@pytest.mark.parametrize("node", ["one", "two"])
def test_slots_on_a_machine_that_is_named(tmp_path: Path, node: str) -> None:
    """Small and large, one after the other: each answer is heard; a killed slot fails its prediction and is made again there."""
    file = written(tmp_path, PREDICTOR)
    with made(tmp_path) as fleet, soma.init(fleet.address), soma.serve.test_client(file, actor={"tags": (node,)}) as client:
        for size in (*[0] * 100, 1_000_000, 3, 3_000_000, 3):
            told = client.post("/predictions", json={"input": {"text": "x" * size}}).json()
            assert (told["status"], told["logs"], told["output"]) == ("succeeded", f"seen {size}\n", {"text": "x" * size, "node": node})
        told = client.post("/predictions", json={"input": {"dies": True}}).json()
        assert told["status"] == "failed" and "SIGKILL" in told["error"]
        assert client.post("/predictions", json={"input": {"text": "y"}}).json()["output"] == {"text": "y", "node": node}
