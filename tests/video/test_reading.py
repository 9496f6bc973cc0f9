"""Files that end, or fail, in odd ways while they are read."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import av
import pytest

from ugatit_batch.errors import FilmError
from ugatit_batch.video.packets import Decoding
from ugatit_batch.video.probe import probe_film
from ugatit_batch.video.reading import Reading

from .film_makers import make_film
from .test_decode import reader
from .writing_support import (
    carried,
    film_info,
    make_source,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ugatit_batch.video.info import FilmInfo


def surprising(path: Path) -> FilmInfo:
    """An FLV file whose sound begins after so many bytes that its beginning does not tell of it."""
    plain = path.with_stem("plain")
    make_film(plain, count=30, sound=True)
    data, tags, place = plain.read_bytes(), [], 13
    while place < len(data):
        end = place + 11 + int.from_bytes(data[place + 1 : place + 4], "big") + 4
        tags.append(data[place:end])
        place = end
    pictures, sound = ([tag for tag in tags if tag[0] == kind] for kind in (9, 8))
    # A unit of H.264 that says nothing, longer than what FFmpeg looks at.
    body = pictures[-2][11:-4] + struct.pack(">I", 6_000_000) + b"\x0c" + b"\xff" * 5_999_999
    long = (
        b"\x09" + len(body).to_bytes(3, "big") + pictures[-2][4:11] + body + struct.pack(">I", len(body) + 11)
    )
    head = data[:4] + b"\x01" + data[5:13]
    path.write_bytes(b"".join([head, *pictures[:-2], long, pictures[-1], *sound]))
    with av.open(str(path)) as film:
        assert len(film.streams) == 1
    return film_info(path)


def test_a_stream_that_appears_while_a_film_is_read(tmp_path: Path) -> None:
    film = reader(surprising(tmp_path / "source.flv").path)
    assert len(list(film.frames())) == 30
    assert (film.notes, film.repeated) == ([], 0)


class Surprised:
    """A file that ends as PyAV lets it end where there is a stream that it does not know."""

    def __init__(self, film: Any, surprises: int) -> None:
        self._film, self._surprises = film, surprises

    def demux(self) -> Iterable[Any]:
        yield from (packet for packet in self._film.demux() if packet.size)
        if self._surprises:
            self._surprises -= 1
            raise IndexError("list index out of range")


def test_reading_ends_after_a_surprise_without_damage(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source.mkv")
    damaged: list[int] = []
    for surprises, gave_up in ((0, False), (2, False), (1000, True)):
        with av.open(str(source.path)) as film:
            surprised: Any = Surprised(film, surprises)
            reading = Reading(surprised, lambda: damaged.append(1))
            assert sum(1 for _ in reading.packets()) > 100
        assert (reading.gave_up, damaged) == (gave_up, [])


def test_a_size_of_no_sense_is_the_films_error(tmp_path: Path) -> None:
    """FFmpeg says that it got no memory: not this machine's error, but the file's."""
    path = tmp_path / "source.avi"
    make_film(path, codec="mpeg4", count=50, sound=True)
    data = bytearray(path.read_bytes())
    place = data.rindex(b"idx1")
    for _ in range(30):
        place = data.index(b"01wb", place + 4)
    data[place + 15] = 0x20
    path.write_bytes(data)
    with pytest.raises(FilmError, match=r"source\.avi: could not be read \(Cannot allocate memory\)"):
        list(reader(path).frames())
    (note,) = carried(film_info(path), tmp_path / "film.mkv")
    assert note == "its sound and subtitles are damaged and end early: Cannot allocate memory"


class NoMemory:
    """A stream whose decoder gets no memory for one packet."""

    def __init__(self, error: type[Exception], *values: object) -> None:
        self._error, self._values = error, values

    def decode(self, _packet: object) -> list[av.VideoFrame]:
        raise self._error(*self._values)


def test_a_decoder_without_memory_met_damage_and_python_did_not(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=5)
    decoding = Decoding(probe_film(path), None, 1)
    short: Any = NoMemory(av.error.MemoryError, 12, "Cannot allocate memory")
    assert list(decoding._decode_packet(short, None)) == []
    real: Any = NoMemory(MemoryError)
    with pytest.raises(MemoryError):
        list(decoding._decode_packet(real, None))
