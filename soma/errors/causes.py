"""Why a process is gone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeathCause:
    """Why a process is gone, as its daemon saw it.

    `reason` is one of: "exited" (by itself, with `exit_code`), "signal" (`signal` names it), "oom" (its own memory
    limit), "oom?" (SIGKILL by somebody else while its memory was high), "killed" (`soma.kill` or the last handle),
    "init" (constructor failed), "exit_actor", "cancelled" (`cancel(force=True)`), "owner" (its creator died),
    "shutdown", "restarts" (too many), "node" (its machine was lost, or left the cluster),
    "group" (its placement group was removed).
    """

    reason: str
    exit_code: int | None = None
    signal: str | None = None
    pid: int = 0
    stderr_tail: str = ""
    detail: str = ""
    rss: int = 0
    limit: int = 0
    in_constructor: bool = False
    """It was gone before its constructor returned."""

    def describe(self) -> str:
        """One line for people, then what the process last said."""
        match self.reason:
            case "signal":
                line = f"process {self.pid} was ended by {self.signal}"
            case "oom":
                line = f"process {self.pid} went over its memory limit: {_mib(self.rss)} used, {_mib(self.limit)} allowed"
            case "oom?":
                line = (f"process {self.pid} was ended by {self.signal} while it used {_mib(self.rss)}; "
                        "the machine was probably out of memory")
            case "killed":
                line = f"process {self.pid} was ended by soma.kill() or because its last handle was dropped"
            case "exit_actor":
                line = f"process {self.pid} left by exit_actor()"
            case "exited":
                line = f"process {self.pid} exited with code {self.exit_code}"
            case "init":
                line = f"the constructor failed in process {self.pid}"
            case "cancelled":
                line = f"process {self.pid} was ended by cancel(force=True)"
            case "owner":
                line = f"process {self.pid} was ended because the process that created it died"
            case "shutdown":
                line = "the cluster was shut down"
            case "restarts":
                line = f"process {self.pid} died once more than it may be restarted"
            case "group":
                line = f"process {self.pid} was ended because its placement group was removed"
            case "node":
                line = f"process {self.pid} is gone with its machine"
            case other:
                line = f"process {self.pid} is gone ({other})"
        parts = [line + (" before its constructor returned" if self.in_constructor else "")]
        if self.detail:
            parts.append(self.detail.rstrip())
        if self.stderr_tail.strip():
            parts.append("last lines of its stderr:\n" + "\n".join("  | " + s for s in self.stderr_tail.rstrip().splitlines()))
        return "\n".join(parts)


def _mib(n: int) -> str:
    return f"{n / 2**20:.0f} MiB"


UNKNOWN_CAUSE = DeathCause("unknown")
