"""`import soma` is cheap: it loads nothing large and starts nothing. How long it takes is the benchmark's matter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import soma

ROOT = Path(soma.__file__).parents[1]
LARGE = ("torch", "sklearn", "scipy", "pandas", "numpy", "matplotlib", "asyncio", "multiprocessing")

PROBE = """
import sys, threading
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
import soma
import json
print(json.dumps({"file": soma.__file__, "version": soma.__version__, "threads": threading.active_count(),
                  "loaded": sorted({m.partition('.')[0] for m in set(sys.modules) - before})}))
"""


@pytest.fixture(scope="module")
def fresh() -> dict[str, object]:
    """What a fresh process says about itself after `import soma`."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROBE, str(ROOT)], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_fresh_process_imports_what_we_test(fresh: dict[str, object]) -> None:
    assert fresh["file"] == soma.__file__
    assert fresh["version"] == soma.__version__


@pytest.mark.parametrize("module", LARGE)
def test_import_loads_nothing_large(fresh: dict[str, object], module: str) -> None:
    loaded = fresh["loaded"]
    assert isinstance(loaded, list)
    assert module not in loaded


def test_import_starts_no_thread(fresh: dict[str, object]) -> None:
    assert fresh["threads"] == 1


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = soma.no_such_name  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", ["from soma import errors", "from soma import SomaError", "import soma; soma.errors",
                                   "import soma; dir(soma)", "import soma; hasattr(soma, 'nothing')"])
def test_whatever_is_asked_for_first_works(first: str) -> None:
    code = f"import sys; sys.path.insert(0, sys.argv[1])\n{first}"
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True)
    assert done.stderr == ""
