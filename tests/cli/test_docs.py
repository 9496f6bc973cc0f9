from __future__ import annotations

import re
import runpy
from pathlib import Path

from ugatit_batch.cli import cli

ROOT = Path(__file__).parent.parent.parent


def test_the_page_of_options_is_what_help_says() -> None:
    render = runpy.run_path(str(ROOT / "scripts" / "write_cli_docs.py"))["render"]
    written = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert written == render(), "run python scripts/write_cli_docs.py"


def test_every_link_in_the_pages_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")]
    assert len(pages) > 6
    for page in pages:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_every_command_in_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"ugatit-batch ([a-z-]+)", text))
    assert named >= {"translate", "train", "models", "bench"}
    context = cli.make_context("ugatit-batch", ["--help"], resilient_parsing=True)
    assert named <= set(cli.list_commands(context))
