from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from ugatit_batch.cli.report import reporter
from ugatit_batch.errors import OutputError
from ugatit_batch.jobs import Result


def result(name: str) -> Result:
    return Result(Path(name), Path("out") / name, "done")


def inputs(path: Path) -> list[str]:
    return [json.loads(line)["input"] for line in path.read_text("ascii").splitlines()]


def test_a_report_replaces_an_older_one_with_the_first_result(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.jsonl"
    for names in (["a", "b"], ["ä", "d"]):
        before = path.read_bytes() if path.exists() else None
        write = reporter(path)
        assert (path.read_bytes() if path.exists() else None) == before
        for name in names:
            write(result(name))
        assert inputs(path) == names


def test_a_report_that_is_appended_to_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.jsonl"
    for name in "abc":
        reporter(path, append=True)(result(name))
    assert inputs(path) == ["a", "b", "c"]


@pytest.mark.parametrize("append", [False, True])
def test_a_report_may_be_moved_away(tmp_path: Path, append: bool) -> None:
    path = tmp_path / "report.jsonl"
    write = reporter(path, append=append)
    write(result("a"))
    path.rename(tmp_path / "report.jsonl.1")
    write(result("b"))
    assert inputs(tmp_path / "report.jsonl.1") == ["a"]
    assert inputs(path) == ["b"]


def test_a_line_that_was_cut_off_takes_none_with_it(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text('{"input": "a"}\n{"inp', "ascii")
    write = reporter(path, append=True)
    write(result("b"))
    write(result("c"))
    lines = path.read_text("ascii").splitlines()
    assert lines[:2] == ['{"input": "a"}', '{"inp']
    assert [json.loads(line)["input"] for line in lines[2:]] == ["b", "c"]


def test_a_report_that_cannot_be_appended_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="report"):
        reporter(tmp_path / "file" / "report.jsonl", append=True)
    write = reporter(tmp_path / "file" / "report.jsonl")
    with pytest.raises(OutputError, match="report"):
        write(result("a"))


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes in folders")
def test_a_report_goes_into_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        reporter(path, append=True)(result("a"))
        assert json.loads(os.read(reading, 65536))["input"] == "a"
    finally:
        os.close(reading)
