"""`@soma.serve.batch` where it is meant to be: an async predictor with several slots, asked by several clients at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import soma

pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

PREDICTOR = """
import asyncio
import soma.serve

class Predictor:
    async def predict(self, x: int) -> list[int]:
        print("asked", x)
        return await self.together(x)

    @soma.serve.batch(max_size=4, wait_ms=10_000)
    async def together(self, xs: list[int]) -> list[list[int]]:
        print("nobody's line")
        return [ValueError(f"no {x}") if x == 13 else [x * 2, len(xs)] for x in xs]
"""


@pytest.fixture(scope="module", autouse=True)
def first_loop() -> None:
    """libuv makes a pipe for signals with a process's first loop, and keeps it."""
    from soma.serve.http.server import new_loop

    new_loop().close()


@pytest.mark.usefixtures("cluster")
def test_predictions_are_made_together(tmp_path: Path) -> None:
    """Four come together and none earlier: the wait is so long that only a full batch can begin in time."""
    (tmp_path / "predict.py").write_text(PREDICTOR)
    with soma.serve.test_client(f"{tmp_path / 'predict.py'}:Predictor", slots=4) as client, ThreadPoolExecutor(4) as pool:
        def ask(x: int) -> tuple[str, object, str]:
            answer = client.post("/predictions", json={"input": {"x": x}}).json()
            return answer["status"], answer["output"] or answer["error"], answer["logs"]

        assert list(pool.map(ask, range(4))) == [("succeeded", [x * 2, 4], f"asked {x}\n") for x in range(4)]
        found = list(pool.map(ask, (1, 13, 2, 3)))
        assert [status for status, _, _ in found] == ["succeeded", "failed", "succeeded", "succeeded"] and found[1][1] == "no 13"
