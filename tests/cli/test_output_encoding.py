from __future__ import annotations

import os
import subprocess
import sys


def test_help_survives_an_old_code_page() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "ugatit_batch", "translate", "--help"],
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert b"--reverse" in finished.stdout
