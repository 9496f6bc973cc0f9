"""What programs that kill `ugatit-batch` again and again begin with."""

# Imports everything once and forks: PyTorch takes longer to import than what is killed.
FORKS = """
import json, os, random, signal, sys, time
from pathlib import Path

import torch
import torch._dynamo  # what the first optimiser imports
from ugatit_batch.cli import main

torch.set_num_threads(1)


def start(*arguments):
    child = os.fork()
    if child:
        return child
    sys.argv = ["ugatit-batch", *arguments, "--quiet", "--device", "cpu"]
    try:
        main()
    except SystemExit as left:
        os._exit(left.code)
    finally:
        os._exit(99)


def ended(child, wait=True):
    found, status = os.waitpid(child, 0 if wait else os.WNOHANG)
    return None if found == 0 else os.waitstatus_to_exitcode(status)
"""
