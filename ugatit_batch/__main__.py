"""`python -m ugatit_batch` is the same program as `ugatit-batch`."""

from ugatit_batch.cli import main

if __name__ == "__main__":
    main()
