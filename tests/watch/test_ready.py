from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ugatit_batch.errors import FilmError, PictureError, UgatitBatchError
from ugatit_batch.watch.ready import is_open_for_writing, look

from ..video.film_makers import make_film

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


def photo(path: Path, **options: Any) -> Path:
    pixels = np.random.default_rng(7).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def film(path: Path, **options: Any) -> Path:
    make_film(path, count=10, **options)
    return path


def kind(path: Path) -> str:
    seen = look(path)
    if isinstance(seen, str):
        return seen
    assert str(path) in seen.message
    assert seen.hint
    return type(seen).__name__


def at_shares(path: Path) -> list[str]:
    """What `look` says when 0, 1, 5, 50 and 100 % of the bytes are there."""
    data, said = path.read_bytes(), []
    for percent in (0, 1, 5, 50, 100):
        path.write_bytes(data[: len(data) * percent // 100])
        said.append(kind(path))
    return said


WHOLE = "whole"
PICTURE, FILM = "PictureError", "FilmError"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        # What is behind the header may be missing: translating it will say so.
        ("a.jpg", {"quality": 95}, [PICTURE, PICTURE, WHOLE, WHOLE, WHOLE]),
        ("a.jpg", {"progressive": True}, [PICTURE, PICTURE, WHOLE, WHOLE, WHOLE]),
        ("a.png", {}, [PICTURE, WHOLE, WHOLE, WHOLE, WHOLE]),
        ("a.bmp", {}, [PICTURE, WHOLE, WHOLE, WHOLE, WHOLE]),
        ("a.tif", {}, [PICTURE, WHOLE, WHOLE, WHOLE, WHOLE]),
        # These tell how long they are.
        ("a.webp", {}, [PICTURE, PICTURE, PICTURE, PICTURE, WHOLE]),
        ("a.avif", {}, [PICTURE, PICTURE, PICTURE, PICTURE, WHOLE]),
    ],
)
def test_half_written_pictures(tmp_path: Path, name: str, options: dict[str, Any], said: list[str]) -> None:
    assert at_shares(photo(tmp_path / name, **options)) == said


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.mp4", {}, [FILM, FILM, FILM, FILM, WHOLE]),
        ("a.mp4", {"container_options": {"movflags": "+faststart"}}, [FILM, FILM, FILM, FILM, WHOLE]),
        ("a.mkv", {}, [FILM, FILM, FILM, FILM, WHOLE]),
        ("a.avi", {"codec": "mpeg4"}, [FILM, FILM, FILM, FILM, WHOLE]),
        # Broadcasts and live recordings tell of no end.
        ("a.mkv", {"container_options": {"live": "1"}}, [FILM, FILM, FILM, WHOLE, WHOLE]),
        ("a.ts", {"codec": "mpeg4"}, [FILM, "other", FILM, WHOLE, WHOLE]),
    ],
)
def test_half_written_films(tmp_path: Path, name: str, options: dict[str, Any], said: list[str]) -> None:
    assert at_shares(film(tmp_path / name, **options)) == said


def test_preallocated_files_are_no_pictures_yet(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.webp", "a.tga", "a.mp4", "a.mkv"):
        path = tmp_path / name
        path.write_bytes(bytes(100_000))
        assert kind(path) == (FILM if name.endswith(("4", "v")) else PICTURE)


def test_what_is_no_file_is_gone(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for name in ("a.jpg", "a.mp4", "folder.jpg"):
        assert look(tmp_path / name) == "gone"
    assert look(photo(tmp_path / "b.png") / "c.png") == "gone"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "link.jpg").symlink_to(tmp_path / "nothing.jpg")
        assert look(tmp_path / "pipe.jpg") == "gone"
        assert not is_open_for_writing(tmp_path / "pipe.jpg")
        assert look(tmp_path / "link.jpg") == "gone"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_what_cannot_be_read(tmp_path: Path) -> None:
    for name, error in (("a.jpg", PictureError), ("a.mp4", FilmError)):
        path = tmp_path / name
        path.symlink_to(path)
        seen = look(path)
        assert isinstance(seen, error)
        assert os.strerror(errno.ELOOP) in seen.message


def test_programs_are_no_films(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_text("export const answer: number = 42\n" * 20)
    assert look(path) == "other"
    path.write_text("")
    assert isinstance(look(path), FilmError)


def test_a_film_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    photo(tmp_path / "a.png").rename(path)
    assert isinstance(look(path), FilmError)


@linux
def test_a_file_is_open_until_its_last_writer_closes_it(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    assert look(path) == "whole"
    with path.open("rb"):
        assert look(path) == "whole"
    with path.open("ab"), path.open("r+b"):
        assert look(path) == "open"
        assert is_open_for_writing(path)
    assert not is_open_for_writing(path)
    assert look(path) == "whole"


@linux
def test_another_program_has_it_open(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv")
    program = "import sys; file = open(sys.argv[1], 'ab'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdout.readline()
        assert look(path) == "open"
        writer.stdin.close()
        assert writer.wait() == 0
    assert look(path) == "whole"


@linux
def test_by_way_of_a_link(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    (tmp_path / "soft.png").symlink_to(path)
    (tmp_path / "hard.png").hardlink_to(path)
    with path.open("ab"):
        assert is_open_for_writing(tmp_path / "soft.png")
        assert is_open_for_writing(tmp_path / "hard.png")


@linux
def test_a_file_system_that_refuses_for_its_own_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ugatit_batch.watch import ready

    path = photo(tmp_path / "a.png")
    monkeypatch.setattr(ready, "_TELLING", frozenset({"none of those"}))
    with path.open("ab"):
        assert not is_open_for_writing(path)


@linux
def test_where_it_cannot_be_known_it_is_not_open(tmp_path: Path) -> None:
    assert not is_open_for_writing(tmp_path / "gone.png")
    assert not is_open_for_writing(tmp_path)
    assert not is_open_for_writing(Path("/proc/self/status"))


@linux
def test_another_users_file(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    path = photo(tmp_path / "a.png")
    path.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    program = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from ugatit_batch.watch.ready import look
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        print(look(Path(sys.argv[1])))
        """
    )
    with path.open("ab"):
        assert look(path) == "open"
        said = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
        )
    assert said.stdout == "whole\n", said.stderr


def disturbed(path: Path, probes: int) -> tuple[int, int]:
    """Probe a file while another process opens it to write, again and again: (its opens, found open)."""
    program = textwrap.dedent(
        """
        import os, sys
        opens = 0
        print(flush=True)
        while not os.path.exists(sys.argv[2]):
            for _ in range(100):
                os.close(os.open(sys.argv[1], os.O_WRONLY))
                opens += 1
        print(opens)
        """
    )
    stop = path.with_suffix(".stop")
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path), str(stop)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            found = sum(is_open_for_writing(path) for _ in range(probes))
        finally:
            stop.touch()
        opens = int(writer.stdout.readline() or 0)
        assert writer.wait() == 0
    return opens, found


@linux
def test_a_writer_that_opens_it_meanwhile_is_not_disturbed(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    opens, _ = disturbed(path, 5000)
    assert opens >= 100
    assert not is_open_for_writing(path)


@linux
@pytest.mark.slow
def test_a_writer_that_opens_it_very_often_is_not_disturbed(tmp_path: Path) -> None:
    opens, found = disturbed(photo(tmp_path / "a.png"), 300_000)
    assert opens >= 100_000
    assert found


@linux
def test_nobody_is_kept_out_afterwards(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    for _ in range(100):
        assert not is_open_for_writing(path)
        # Unlike others it is refused while there is a lease, in place of being held up.
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def test_errors_are_of_the_projects_tree(tmp_path: Path) -> None:
    data = photo(tmp_path / "a.jpg", quality=50).read_bytes()
    path = tmp_path / "b.jpg"
    for length in range(0, len(data), max(1, len(data) // 200)):
        path.write_bytes(data[:length])
        seen = look(path)
        assert seen == "whole" or isinstance(seen, UgatitBatchError)
