"""What the measured predictors do, the same for every system. Imports nothing of any of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator


def do(what: str, n: int, data: str) -> int:
    """"": nothing; "spin": so many steps of pure Python; "print": so many lines; "pid": whose process it is; "nap": milliseconds."""
    match what:
        case "spin":
            total = 0
            for i in range(n):
                total += i & 3
            return total
        case "print":
            for i in range(n):
                print(f"line {i} of {n}: the quick brown fox jumps")
        case "pid":
            return os.getpid()
        case "nap":
            time.sleep(n / 1000)
    return len(data)


def words(n: int) -> Iterator[str]:
    return (f" word{i}" for i in range(n))
