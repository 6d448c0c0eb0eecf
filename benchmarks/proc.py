"""Processes from outside: which belong to a run, how much memory they use, when the last one is gone.

A run is found by a marker in its environment (children inherit it, also when they are orphaned) and by descent.
Zombies count as gone: they hold no memory and only wait for their parent.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import IO

import psutil

MARK = "BENCH_RUN"


def my_mark() -> str:
    return os.environ[MARK]


def spawn(arguments: list[str], mark: str, scratch: Path, python: str, log: IO[str]) -> subprocess.Popen[str]:
    """`python -m arguments…`, marked, with `scratch` as its place for sockets and temporary files."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # what is installed is compiled once
    env = kept | {MARK: mark, "TMPDIR": str(scratch), "XDG_RUNTIME_DIR": str(scratch), "PYTHONPATH": path}
    return subprocess.Popen([python, "-m", *arguments], env=env, text=True, stdout=log, stderr=log)


def pss(pid: int) -> float:
    """MB."""
    return float(psutil.Process(pid).memory_full_info().pss) / 1e6


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def marked(mark: str) -> set[psutil.Process]:
    found = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and _alive(process):
                found.add(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone meanwhile, or another user's
    return found


def family(pid: int, mark: str) -> set[psutil.Process]:
    """The process, its descendants, and whatever carries the mark (a program that sets its title may overwrite its mark)."""
    try:
        root = psutil.Process(pid)
        related = {root, *root.children(recursive=True)}
    except psutil.NoSuchProcess:
        related = set()
    return {p for p in related if _alive(p)} | marked(mark)


def _shared_memory(processes: set[psutil.Process]) -> set[Path]:
    """Files in /dev/shm that these processes have mapped."""
    found = set()
    for process in processes:
        try:
            found |= {Path(m.path) for m in process.memory_maps() if m.path.startswith("/dev/shm/")}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return {path for path in found if path.exists()}


def _sockets(scratch: Path) -> list[Path]:
    found = []
    for path in scratch.rglob("*"):
        try:
            if stat.S_ISSOCK(path.lstat().st_mode):
                found.append(path)
        except FileNotFoundError:
            continue  # removed while we looked, which is what we wait for
    return found


def end(processes: set[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def seconds_until_nothing_is_left(driver: subprocess.Popen[str], mark: str, scratch: Path, limit: float) -> float:
    """SIGKILL the driver, then watch. RuntimeError names what is left at `limit`; it is ended in any case."""
    members = family(driver.pid, mark)
    files = _shared_memory(members)
    begin = time.perf_counter()
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    try:
        while True:
            members = {p for p in members if _alive(p)} or marked(mark)
            sockets, files = _sockets(scratch), {f for f in files if f.exists()}
            seconds = time.perf_counter() - begin
            if not (members or sockets or files):
                return seconds
            if seconds > limit:
                names = ", ".join(sorted({p.name() for p in members if _alive(p)})) or "no process"
                raise RuntimeError(f"after {limit:.0f} s there were left: {len(members)} processes ({names}), "
                                   f"{len(sockets)} sockets, {len(files)} shared memory files")
            time.sleep(0.005)
    finally:
        end(members | marked(mark))
