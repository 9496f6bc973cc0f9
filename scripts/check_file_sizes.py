"""Refuse source files of more than 500 lines: such a file knows too much."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LIMIT = 500


def main() -> int:
    """Print the files that are too long; return how many there are."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.py"], check=True, capture_output=True).stdout
    counts = {name: len(Path(name).read_bytes().splitlines()) for name in listed.decode().split("\0") if name}
    too_long = {name: count for name, count in counts.items() if count > LIMIT}
    for name, count in too_long.items():
        print(f"{name}: {count} lines, {LIMIT} are the limit")
    return len(too_long)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
