"""Every `python` block of README.md and docs/ runs, each in a fresh process and an empty directory.

`<!-- no-run -->` on the line before a block excuses it; `<!-- needs: torch -->` skips it where that module is missing.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import soma

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?:^<!-- *(?P<note>no-run|needs: *(?P<needs>[\w.]+)) *-->\n)?^```python\n(?P<code>.*?)^```$", re.M | re.S)


def blocks() -> Iterator[object]:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        text = page.read_text(encoding="utf-8")
        for found in BLOCK.finditer(text):
            if found["note"] != "no-run":
                line = text.count("\n", 0, found.start("code")) + 1
                yield pytest.param(found["code"], found["needs"], id=f"{page.relative_to(ROOT)}:{line}")


def test_the_readme_has_blocks_to_run() -> None:
    assert any("README" in str(b) for b in blocks())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("code", "needs"), list(blocks()))
def test_block(code: str, needs: str | None, tmp_path: Path) -> None:
    if needs is not None and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    paths = [str(Path(soma.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=50)
    assert done.returncode == 0, f"{code}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
