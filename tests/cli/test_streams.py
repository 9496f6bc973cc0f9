from __future__ import annotations

import os
import subprocess
import sys


def test_a_reader_that_leaves_is_no_fault_of_the_program() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "ugatit_batch", "translate", "--help"],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert finished.returncode == 1
    assert finished.stderr == b""
