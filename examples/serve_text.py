"""A text generator behind HTTP that streams: each word is sent when it is there.

    python examples/serve_text.py                    serves it to itself, and prints what comes as it comes
    soma serve examples/serve_text.py --port 5000    serves it to others, until Ctrl-C:

    curl -N localhost:5000/predictions -H 'Content-Type: application/json' -H 'Accept: text/event-stream' \\
        -d '{"input": {"prompt": "Return the", "words": 30}}'

The model knows which word follows two others in the docstrings of Python's standard library. Needs: pip install "soma[serve]"
"""

import ast
import json
import random
import sysconfig
import time
from collections import defaultdict
from pathlib import Path

import soma
from soma.serve import BasePredictor, ConcatenateIterator, Input, current_scope


def docstrings(modules):
    """Of that many modules of the standard library, word by word."""
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))[:modules]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
                yield text.split()


class Writer(BasePredictor):
    """Goes on with a text, word by word."""

    def setup(self):
        self.after = defaultdict(list)
        count = 0
        for words in docstrings(60):
            count += len(words)
            for a, b, c in zip([None, *words], words, words[1:], strict=False):
                self.after[a, b].append(c)
                self.after[b].append(c)
        self.words = sorted({b for b in self.after if isinstance(b, str)})
        print(f"read {count} words")

    def predict(self, prompt: str = Input(default="Return the", description="What to go on with"),
                words: int = Input(default=40, ge=1, le=1000), seed: int = Input(default=None, description="For the same text again"),
                pause: float = Input(default=0.0, ge=0, le=1, description="Seconds for each word: models take their time")
                ) -> ConcatenateIterator[str]:
        draw = random.Random(seed)
        *_, a, b = [None, None, *prompt.split()]
        for count in range(1, words + 1):
            a, b = b, draw.choice(self.after.get((a, b)) or self.after.get(b) or self.words)
            time.sleep(pause)
            current_scope().record_metric("words", count)
            yield f" {b}"


def main():
    with soma.init(), soma.serve.test_client(f"{__file__}:Writer") as client:
        print(client.get("/health-check").json()["setup"]["logs"].strip())
        asked = {"input": {"prompt": "Return the", "words": 40, "seed": 4, "pause": 0.01}}
        began, came = time.perf_counter(), []
        print("Return the", end="")
        with client.stream("POST", "/predictions", json=asked, headers={"Accept": "text/event-stream"}) as events:
            kind = ""
            for line in events.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: ") and kind == "output":
                    came.append(time.perf_counter() - began)
                    print(json.loads(line.removeprefix("data: "))["chunk"], end="", flush=True)
        print(f"\n\n{len(came)} words; the first after {came[0]:.3f} s, the last after {came[-1]:.3f} s")
        whole = client.post("/predictions", json=asked).json()
        print(f"asked for all at once, the answer has {len(whole['output'])} words, and counts {whole['metrics']['words']}")


if __name__ == "__main__":
    main()
