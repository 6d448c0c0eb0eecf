"""docs/serving.md and the README: their predictors are served, and their curl commands run and print what they say (… is anything)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import soma

for module in ("uvicorn", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(module)
ROOT = Path(__file__).parents[2]
FILE = re.compile(r"^<!-- file: (\S+) -->\n```python\n(.*?)^```$", re.M | re.S)
CONSOLE = re.compile(r"^(<!-- server -->\n)?```console\n(.*?)^```$", re.M | re.S)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command and what it prints."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def pattern(output: str) -> str:
    return ".*".join(re.escape(part) for part in output.rstrip("\n").split("…"))


@pytest.mark.parametrize("page", ["README.md", "docs/serving.md"])
def test_the_commands_of_a_page(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for program in ("bash", "curl", "jq"):
        if not any((Path(p) / program).exists() for p in os.environ["PATH"].split(os.pathsep)):
            pytest.skip(f"{program} is not installed")
    for name, code in FILE.findall(text):
        (tmp_path / name).write_text(code, encoding="utf-8")
    blocks = CONSOLE.findall(text)
    ((start, said),) = [pair for server, block in blocks if server for pair in commands(block)]
    arguments = start.replace("--port 5000", "--port 0").split()[1:]
    server = subprocess.Popen([sys.executable, "-c", "from soma.cli import main; main()", *arguments], cwd=tmp_path, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              env={**os.environ, "PYTHONPATH": str(Path(soma.__file__).parents[1])})
    with server:
        try:
            assert server.stdout is not None
            lines = [server.stdout.readline() for _ in said.splitlines()]
            port = re.findall(r":(\d+) ", lines[0])[0]
            assert re.fullmatch(pattern(said), "".join(lines).replace(f":{port} ", ":5000 ").rstrip("\n"))
            asked = [pair for server_block, block in blocks if not server_block for pair in commands(block)]
            assert asked
            for command, output in asked:
                command = command.replace("localhost:5000", f"localhost:{port}")
                done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=20)
                assert re.fullmatch(pattern(output), done.stdout.rstrip("\n")), (command, done.stdout, done.stderr)
            server.terminate()
            assert server.wait(20) == 0
        finally:
            server.kill()
