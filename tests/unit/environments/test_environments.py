"""Real environments, made by uv from wheels in a directory: found again, made once, never a wrong one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

pytest.importorskip("uv")
pytest.importorskip("filelock")

from wheels import make_wheel

from soma.environments import EnvironmentBuildError, Environments, EnvironmentSpec, prepare
from soma.environments import uv as running
from soma.environments.environments import HERE


@pytest.fixture(scope="module", autouse=True)
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """uv finds packages here and nowhere else."""
    where = tmp_path_factory.mktemp("wheels")
    make_wheel(where, "toy", "1.0")
    make_wheel(where, "toy", "2.0")
    make_wheel(where, "msgpack", "99.0")  # one that soma's own Python has too
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("UV_", "PIP_"))]:
            patch.delenv(name)
        patch.setenv("UV_FIND_LINKS", str(where))
        patch.setenv("UV_OFFLINE", "1")
        patch.setenv("UV_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield where


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def run(python: Path, code: str) -> str:
    done = subprocess.run([python, "-c", code], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_is_made_once_and_then_found(root: Path) -> None:
    lines: list[str] = []
    first = Environments(root).ensure(EnvironmentSpec(("toy<2",)), on_line=lines.append)
    again = Environments(root).ensure(EnvironmentSpec((" Toy <2",)), on_line=lines.append)
    assert (first.built, again.built) == (True, False) and again.python == first.python
    assert sum("toy==1.0" in line for line in lines) == 1
    assert run(first.python, "import sys, toy; print(toy.VERSION, sys.prefix)") == f"1.0 {first.python.parents[1]}"
    assert (first.packages / "toy.py").exists()
    other = Environments(root).ensure(EnvironmentSpec(("toy",)))
    assert other.built and run(other.python, "import toy; print(toy.VERSION)") == "2.0"
    for held in (first, again, other):
        held.release()
        held.release()


def test_its_own_packages_come_before_those_of_the_cluster(root: Path) -> None:
    with_own = Environments(root).ensure(EnvironmentSpec(("msgpack==99.0",)))
    assert run(with_own.python, "import msgpack; print(msgpack.VERSION)") == "99.0"
    plain = Environments(root).ensure(EnvironmentSpec(("toy==1.0",)))
    # soma and all it stands on
    told = run(plain.python, "import msgpack, soma.environments as e; print(msgpack.version, e.__file__)")
    import msgpack

    import soma.environments as e
    assert told == f"{msgpack.version} {e.__file__}"
    for held in (with_own, plain):
        held.release()


def test_what_cannot_be_resolved_says_why_and_leaves_nothing(root: Path) -> None:
    before = Environments(root).keys()
    with pytest.raises(EnvironmentBuildError, match=r"uv pip install ended with exit code 1\n(.*\n)*.*toy==3"):
        Environments(root).ensure(EnvironmentSpec(("toy==3",)))
    with pytest.raises(EnvironmentBuildError, match="uv venv ended"):
        Environments(root).ensure(EnvironmentSpec((), "3.99"))
    assert Environments(root).keys() == before and list((root / ".making").iterdir()) == []


def test_without_uv_it_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", str(root))  # where no uv is
    with pytest.raises(EnvironmentBuildError, match=r'pip install "soma\[env\]"'):
        Environments(root).ensure(EnvironmentSpec(("toy",)))


def test_a_limit_in_time(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="took too long"):
        Environments(tmp_path / "e").ensure(EnvironmentSpec(("toy",)), timeout=0)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(EnvironmentBuildError, match="was stopped"):
        Environments(tmp_path / "e").ensure(EnvironmentSpec(("toy",)), stop=stopped.is_set)


def test_those_not_used_for_longest_go_but_none_that_is_in_use(tmp_path: Path) -> None:
    few = Environments(tmp_path / "e", most=2)
    held = few.ensure(EnvironmentSpec(("toy==1.0",)))
    second = few.ensure(EnvironmentSpec(("toy==2.0",)))
    second.release()
    third = few.ensure(EnvironmentSpec())
    assert few.keys() == [held.key, third.key] and held.python.exists() and not second.python.exists()
    held.release()
    few.ensure(EnvironmentSpec(("toy==2.0",))).release()
    assert few.keys() == [third.key, second.key]
    third.release()


def test_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    first = Environments(tmp_path / "e").ensure(EnvironmentSpec())
    first.python.unlink()
    again = Environments(tmp_path / "e").ensure(EnvironmentSpec())
    assert again.built and again.python.exists()
    for held in (first, again):
        held.release()


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    from soma.errors import SecurityError

    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(SecurityError, match="open to others"):
        Environments(tmp_path / "open")


MAKES = f"""if True:
    import json, sys
    from pathlib import Path
    from soma.environments import Environments, EnvironmentSpec
    def line(text):
        print("line", flush=True)
        sys.stdin.readline() if "{{wait}}" else None
    e = Environments(Path(sys.argv[1])).ensure(EnvironmentSpec(("toy==2.0",), "{HERE}"), on_line=line)
    print(json.dumps([e.built, str(e.python)]), flush=True)
"""


def maker(root: Path, *, wait: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-P", "-c", MAKES.replace("{wait}", "yes" if wait else ""), str(root)], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)


@pytest.mark.crash
def test_two_processes_and_two_threads_at_once_make_it_once(tmp_path: Path) -> None:
    made: list[bool] = []

    def ensure() -> None:
        environment = Environments(tmp_path / "e").ensure(EnvironmentSpec(("toy==2.0",)))
        made.append(environment.built)
        environment.release()

    processes = [maker(tmp_path / "e"), maker(tmp_path / "e")]
    threads = [threading.Thread(target=ensure) for _ in range(2)]
    for thread in threads:
        thread.start()
    for process in processes:
        said, _ = process.communicate()
        assert process.returncode == 0
        made.append(json.loads(said.splitlines()[-1])[0])
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]


@pytest.mark.crash
def test_a_maker_that_is_killed_leaves_nothing_that_counts(tmp_path: Path) -> None:
    first = maker(tmp_path / "e", wait=True)
    assert first.stdout is not None and first.stdin is not None
    assert first.stdout.readline() == "line\n"  # in the midst of it
    assert list((tmp_path / "e" / ".making").iterdir()) != []
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    first.stdin.close()
    environment = Environments(tmp_path / "e").ensure(EnvironmentSpec(("toy==2.0",)))
    assert environment.built and run(environment.python, "import toy; print(toy.VERSION)") == "2.0"
    assert list((tmp_path / "e" / ".making").iterdir()) == []
    environment.release()


def test_what_runtime_env_asks_for_is_such_an_environment(root: Path) -> None:
    prepared = prepare({"pip": ["toy==1.0"], "env_vars": {"A": "b"}}, root)
    assert prepared.python is not None and prepared.packages is not None and prepared.cwd is None
    assert run(prepared.python, "import toy; print(toy.__file__)") == str(prepared.packages / "toy.py")
    prepared.release()
    with pytest.raises(EnvironmentBuildError, match="toy==7"):
        prepare({"pip": ["toy==7"]}, root)


def test_uv_is_told_what_pip_was_told_but_nothing_of_other_environments() -> None:
    told = running.variables({"PIP_INDEX_URL": "a", "PIP_FIND_LINKS": "b", "UV_FIND_LINKS": "own", "VIRTUAL_ENV": "x", "PYTHONPATH": "y"})
    assert (told["UV_DEFAULT_INDEX"], told["UV_FIND_LINKS"]) == ("a", "own")
    assert not {"VIRTUAL_ENV", "PYTHONPATH"} & told.keys()
    assert "UV_DEFAULT_INDEX" not in running.variables({"PIP_INDEX_URL": "a", "UV_INDEX_URL": "own"})
