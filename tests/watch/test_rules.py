from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ugatit_batch.images.read import PICTURE_SUFFIXES
from ugatit_batch.video.containers import FILM_SUFFIXES
from ugatit_batch.watch.rules import Rules


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(rules: Rules, below: Path | None = None) -> list[str]:
    return [path.relative_to(rules.folder).as_posix() for path, _ in rules.files(below)]


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES | FILM_SUFFIXES))
def test_pictures_and_films_by_name(tmp_path: Path, suffix: str) -> None:
    rules = Rules(tmp_path)
    assert rules.wants(tmp_path / f"a{suffix}")
    assert rules.wants(tmp_path / "in" / "side" / f"a{suffix.upper()}")
    assert not rules.wants(tmp_path / f".a{suffix}")
    assert not rules.wants(tmp_path / f"~$a{suffix}")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a.jpg.part",
            "a.mp4.part-Frag12.part",
            "a.mp4.part-Frag12",
            "a.temp.mp4",
            "a.part.mp4",
            "a.mp4.ytdl",
        ),
        *("a.jpg.crdownload", "Unconfirmed 12345.crdownload", "a.jpg.opdownload", "a.jpg.download"),
        *("a.jpg.partial", "a.partial.jpg", ".a.partial.jpg", "a.jpg.1a2b3c4d.partial"),
        *("a.jpg.filepart", "a.tmp", "a.tmp.jpg", "A.TMP.JPG", "a.jpg.aria2", "a.mp4.!qB", "a.mp4.!ut"),
        *("~syncthing~a.jpg.tmp", ".syncthing.a.jpg.tmp", ".a.jpg.Xy12Za", ".~tmp~", ".a.jpg.~1f2e"),
        *("~$a.jpg", ".goutputstream-ABCDEF", "a.jpg.sb-1a2b3c4d-Xyz123", "a.jpg_exiftool_tmp", "._a.jpg"),
        *(
            ".pending-1700000000-a.jpg",
            ".trashed-1700000000-a.jpg",
            "a.jpg~",
            "a.txt",
            "jpg",
            ".jpg",
            "Thumbs.db",
        ),
    ],
)
def test_what_is_not_finished_or_nobodys_picture(tmp_path: Path, name: str) -> None:
    put(tmp_path / name)
    rules = Rules(tmp_path)
    assert not rules.wants(tmp_path / name)
    assert found(rules) == []


@pytest.mark.parametrize(
    "name",
    [
        *("Kill Bill.Part.1.mkv", "part.jpg", "temp.png", "a.partly.jpg", "Download.jpg", "tmp.tmp2.jpg"),
        *(
            "a.sync-conflict-20240101-120000-ABCDEFG.jpg",
            "a (conflicted copy).jpg",
            "~a.jpg",
            "#1.jpg",
            "@me.png",
        ),
        *("$5.jpg", "a b.jpg", "a.jpg.jpg", "ä€😀.png"),
    ],
)
def test_what_only_looks_like_that(tmp_path: Path, name: str) -> None:
    put(tmp_path / name)
    rules = Rules(tmp_path)
    assert rules.wants(tmp_path / name)
    assert found(rules) == [name]


@pytest.mark.parametrize(
    "name",
    [
        *(".stfolder", ".stversions", ".git", ".Trash-1000", ".dropbox.cache", ".@__thumb", ".rsync-partial"),
        *(
            "@eaDir",
            "@EADIR",
            "#recycle",
            "#snapshot",
            "@tmp",
            "@Recycle",
            "@Recently-Snapshot",
            "$RECYCLE.BIN",
        ),
        *("System Volume Information", "lost+found", "~snapshot", "Network Trash Folder", "a.jpg.download"),
    ],
)
def test_folders_that_are_not_looked_into(tmp_path: Path, name: str) -> None:
    rules = Rules(tmp_path)
    for path in (tmp_path / name, tmp_path / "in" / name, tmp_path / name / "side"):
        put(path / "a.jpg")
        assert not rules.enters(path)
        assert not rules.wants(path / "a.jpg")
        assert found(rules, path) == []
    put(tmp_path / "in" / "a.jpg")
    assert found(rules) == ["in/a.jpg"]


@pytest.mark.parametrize("name", ["download", "my.download", "recycle", "a.jpg", "Temporary", "tmp"])
def test_folders_that_are(tmp_path: Path, name: str) -> None:
    rules = Rules(tmp_path)
    put(tmp_path / name / "a.jpg")
    assert rules.enters(tmp_path / name)
    assert found(rules) == [f"{name}/a.jpg"]


def test_above_the_watched_folder_any_name_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ".hidden" / "@eaDir" / "a.tmp" / "lost+found"
    put(folder / "in" / "a.jpg")
    rules = Rules(folder)
    assert rules.enters(folder)
    assert rules.enters(folder / "in")
    assert rules.wants(folder / "in" / "a.jpg")
    assert found(rules) == ["in/a.jpg"]
    assert not rules.wants(tmp_path / "a.jpg")
    assert not rules.wants(folder.parent / "a.jpg")
    assert not rules.enters(folder.parent)


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(Path("in/a.jpg"))
    put(Path("in/out/b.jpg"))
    assert found(Rules(Path("in"), [tmp_path / "in" / "out"])) == ["a.jpg"]
    assert found(Rules(Path(), [Path("in/out")])) == ["in/a.jpg"]


def test_without_folders_inside(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg")
    put(tmp_path / "in" / "b.jpg")
    rules = Rules(tmp_path, recursive=False)
    assert found(rules) == ["a.jpg"]
    assert found(rules, tmp_path / "in") == []
    assert rules.wants(tmp_path / "a.jpg")
    assert not rules.wants(tmp_path / "in" / "b.jpg")
    assert not rules.enters(tmp_path / "in")


def test_the_output_tree_and_that_of_done_inputs(tmp_path: Path) -> None:
    out, done = tmp_path / "out", tmp_path / "in" / "done"
    for path in (out / "a.jpg", out / "deep" / "a.jpg", done / "b.jpg", tmp_path / "in" / "c.jpg"):
        put(path)
    put(tmp_path / "output.jpg")
    rules = Rules(tmp_path, [out, done, tmp_path / "not there"])
    assert found(rules) == ["in/c.jpg", "output.jpg"]
    assert found(rules, out / "deep") == []
    assert not rules.enters(out)
    assert not rules.wants(out / "deep" / "a.jpg")
    assert not rules.wants(tmp_path / "not there" / "a.jpg")
    assert rules.wants(tmp_path / "outer" / "a.jpg")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_tree_that_is_left_out_is_known_through_links(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    put(out / "sub" / "a.jpg")
    put(tmp_path / "other" / "b.jpg")
    folder.mkdir()
    (folder / "link").symlink_to(out)
    (folder / "deeper").symlink_to(out / "sub")
    (folder / "up").symlink_to(tmp_path)
    (tmp_path / "out too").symlink_to(out)
    rules = Rules(folder, [tmp_path / "out too"])
    assert found(rules) == ["up/other/b.jpg"]
    assert not rules.wants(folder / "link" / "gone.jpg")
    assert not rules.wants(folder / "deeper" / "a.jpg")
    assert not rules.wants(folder / "up" / "out" / "sub" / "a.jpg")
    assert not rules.wants(folder / "up" / "in" / "a.jpg")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_the_watched_folder_by_another_way(tmp_path: Path) -> None:
    put(tmp_path / "real" / "in" / "a.jpg")
    put(tmp_path / "real" / "out" / "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert found(Rules(tmp_path / "link", [tmp_path / "real" / "out"])) == ["in/a.jpg"]


def test_a_watched_folder_inside_of_the_output_folder(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "new"
    put(folder / "in" / "a.jpg")
    put(tmp_path / "photos" / "b.jpg")
    rules = Rules(folder, [tmp_path / "photos"])
    assert found(rules) == ["in/a.jpg"]
    assert rules.wants(folder / "in" / "a.jpg")
    if sys.platform != "win32":
        (folder / "up").symlink_to(tmp_path / "photos")
        assert not rules.enters(folder / "up")
        assert found(rules) == ["in/a.jpg"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_that_lead_back(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.jpg")
    put(tmp_path / "beside" / "b.jpg")
    (tmp_path / "in" / "back").symlink_to(tmp_path)
    (tmp_path / "in" / "beside").symlink_to(tmp_path / "beside")
    rules = Rules(tmp_path)
    assert found(rules) == ["beside/b.jpg", "in/a.jpg", "in/beside/b.jpg"]
    assert not rules.enters(tmp_path / "in" / "back")
    assert found(rules, tmp_path / "in" / "back") == []
    assert found(rules, tmp_path / "in" / "back" / "beside") == []
    assert found(rules, tmp_path / "in" / "beside") == ["in/beside/b.jpg"]
    assert not rules.wants(tmp_path / "in" / "back" / "in" / "a.jpg")


def test_versions_are_those_of_the_files(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jpg", b"abc")
    os.utime(path, ns=(5, 1_000_000_000_123))
    ((_, version),) = Rules(tmp_path).files()
    assert version.size == 3
    assert version.mtime == path.stat().st_mtime_ns


def test_folders_that_cannot_be_looked_into(tmp_path: Path) -> None:
    problems: list[tuple[Path, OSError]] = []
    rules = Rules(tmp_path / "gone")
    assert list(rules.files(problem=lambda path, error: problems.append((path, error)))) == []
    ((path, error),) = problems
    assert path == tmp_path / "gone"
    assert isinstance(error, FileNotFoundError)
    problems.clear()
    rules = Rules(tmp_path)
    list(rules.files(tmp_path / "gone", lambda path, error: problems.append((path, error))))
    list(rules.files(put(tmp_path / "a.jpg"), lambda path, error: problems.append((path, error))))
    assert problems == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow text only")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.jpg")
    put(tmp_path / os.fsdecode(b"in\xff") / name)
    assert [os.fsencode(path.name) for path, _ in Rules(tmp_path).files()] == [b"\xff\xfe.jpg"]
