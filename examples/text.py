"""Prose or code? A text pipeline learns from a file that is larger than the memory its processes may use.

    python examples/text.py [--megabytes 200] [--limit 150]

The text is real: docstrings and code lines of the Python standard library, written into a file again and again until it is large enough.
It is read in chunks; a hashing vectorizer and a linear classifier, each in a process of its own with a limit on its memory, learn from
chunk after chunk, and only a few chunks are under way at once. Needs scikit-learn: pip install "soma[ml]"
"""

import argparse
import ast
import random
import resource
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier

import soma

ask = argparse.ArgumentParser()
ask.add_argument("--megabytes", type=int, default=200, help="size of the file")
ask.add_argument("--limit", type=int, default=150, help="megabytes of memory that each process may use")
asked = ask.parse_args()
if asked.limit >= asked.megabytes:
    ask.error("the file is to be larger than the limit")


def lines_of_the_standard_library():
    """(1, a line of prose) or (0, a line of code), shuffled."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:120]:
        source = path.read_text(encoding="utf-8", errors="ignore")
        prose = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                prose.update(line.strip() for line in ast.get_docstring(node).splitlines())
        found += [(1, line) for line in prose]
        found += [(0, line) for line in map(str.strip, source.splitlines()) if line and line[0] not in "#\"'" and line not in prose]
    found = sorted({(label, text) for label, text in found if len(text) > 20})
    random.Random(0).shuffle(found)
    return found


def chunks(path, lines=20_000):
    """(texts, labels), chunk after chunk; nothing else of the file is held."""
    with open(path, encoding="utf-8") as f:
        while some := [line for _, line in zip(range(lines), f, strict=False)]:
            yield [line[2:] for line in some], np.array([int(line[0]) for line in some])


def vectorize():
    return soma.filter(HashingVectorizer, memory=asked.limit * 10**6)(analyzer=str.split, n_features=2**16)


def classify():
    return soma.filter(SGDClassifier, classes=[0, 1], memory=asked.limit * 10**6)(random_state=0)


with tempfile.TemporaryDirectory() as folder:
    found = lines_of_the_standard_library()
    held_out, train = found[: len(found) // 5], found[len(found) // 5:]
    path = Path(folder, "lines.tsv")
    block = "".join(f"{label} {text}\n" for label, text in train)
    with open(path, "w", encoding="utf-8") as f:
        while f.tell() < asked.megabytes * 10**6:
            f.write(block)
    print(f"{path.stat().st_size / 1e6:.0f} MB of text, {len(train):,} different lines")
    del block, train, found

    with soma.init():
        g = soma.Graph(vectorize() >> classify())
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        g.fit(lambda: chunks(path), stream=True)
        took = time.perf_counter() - began
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        used = {a["name"].rpartition("-")[0]: a["memory_bytes"] / 1e6 for a in soma.status()["actors"] if a["class_name"] == "FilterActor"}
        print(f"learnt in {took:.1f} s ({path.stat().st_size / 1e6 / took:.0f} MB/s)")
        actors = ", ".join(f"{name} {mb:.0f} MB" for name, mb in used.items())
        print(f"memory: {actors} (limit {asked.limit} MB); this program +{grown:.0f} MB")

        texts, labels = [text for _, text in held_out], np.array([label for label, _ in held_out])
        predicted = np.concatenate(list(g.forward(texts, stream=True, chunk_size=5_000)))
        print(f"prose or code, right for {(predicted == labels).mean():.1%} of {len(labels):,} lines never seen "
              f"({max(labels.mean(), 1 - labels.mean()):.1%} by always guessing the same)")
