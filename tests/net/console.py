"""A program on a host that a test leads step by step."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from hosts import Host

CONSOLE = """

def _console():
    import json, os, sys, traceback
    answers = os.dup(1)
    os.dup2(2, 1)  # what the program prints is not an answer
    for line in sys.stdin:
        text = json.loads(line)
        try:
            try:
                code = compile(text, "<console>", "eval")
            except SyntaxError:
                code = compile(text, "<console>", "exec")
            answer = {"value": eval(code, globals())}
        except Exception as e:
            traceback.print_exc()
            answer = {"error": type(e).__name__, "text": str(e)}
        text = memoryview(json.dumps(answer, default=lambda value: f"<{type(value).__name__}>").encode() + b"\\n")
        while text:
            text = text[os.write(answers, text):]

_console()
"""


class Raised(Exception):
    """What a line raised in a console; `name` is the type's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name, self.text = name, text


class Console:
    """A program on a host that then runs lines of Python, one after the other, in its own `__main__`.

    Values come back as JSON; what JSON does not know, as the name of its type in angle brackets. One line at a time.
    """

    def __init__(self, host: Host, source: str, *, env: dict[str, str] | None = None) -> None:
        self._host = host
        script = Path(tempfile.mkdtemp(prefix="c", dir=host.folder)) / "program.py"
        script.write_text(source + CONSOLE)
        with (host.folder / "consoles.log").open("a") as log:
            self.process = host.run([sys.executable, "-W", "error", script], env=env, text=True, stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, stderr=log)
        self.pid = self.process.pid

    def ask(self, text: str, timeout: float = 15.0) -> Any:
        """Run a line (or lines) and wait: the value of an expression, None of statements. Raised: what it raised."""
        self.send(text)
        return self.hear(timeout)

    def send(self, text: str) -> None:
        """Run a line, and go on here meanwhile; `hear` takes the answer."""
        stdin = self._pipe(self.process.stdin)
        stdin.write(json.dumps(text) + "\n")
        stdin.flush()

    def hear(self, timeout: float = 15.0) -> Any:
        stdout = self._pipe(self.process.stdout)
        line = stdout.readline() if select.select([stdout], [], [], timeout)[0] else None
        if not line:
            said = (self._host.folder / "consoles.log").read_text()[-4000:]
            what = f"no answer within {timeout} s" if line is None else f"it ended with {self.process.wait(5)}"
            raise AssertionError(f"the program on {self._host}: {what}; its stderr ends\n{said}")
        answer = json.loads(line)
        if "error" in answer:
            raise Raised(answer["error"], answer["text"])
        return answer["value"]

    def close(self) -> None:
        """Let it end, in order if it can; idempotent."""
        for pipe in (self.process.stdin, self.process.stdout):
            self._pipe(pipe).close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @staticmethod
    def _pipe(pipe: IO[Any] | None) -> IO[Any]:
        if pipe is None:
            raise AssertionError("a console has pipes")
        return pipe
