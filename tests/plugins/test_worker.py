from __future__ import annotations

import io
import shutil
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from ugatit_batch.bundle import WorkingSize
from ugatit_batch.errors import MemoryLacksError
from ugatit_batch.frames import SizeRule
from ugatit_plugins.opening import EngineOpening
from ugatit_plugins.protocol import RefusedError, TranslateRequest
from ugatit_plugins.worker import Worker, refusal

from ..fakes import InvertingTranslator, colours, make_model, pixels_of
from .serving import PATIENT, Gate, StandInOpening, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ugatit_batch.frames import Pixels
    from ugatit_plugins.worker import Answer, Job

    from ..conftest import Outcome

SIZES = [(37, 23), (64, 64), (33, 33), (200, 91), (1, 1), (8, 5), (90, 200), (3, 70)]


def raw(pixels: Pixels, model: str, *, reverse: bool = False, attention: bool = False) -> TranslateRequest:
    height, width = pixels.shape[:2]
    return TranslateRequest(model, reverse, attention, (width, height), pixels.nbytes)


def submit(worker: Worker, pixels: Pixels, model: str = "own", **how: bool) -> Job:
    return worker.submit(worker.choose(raw(pixels, model, **how)), bytearray(pixels.tobytes()))


def result(worker: Worker, pixels: Pixels, model: str = "own", **how: bool) -> Pixels:
    return rows(submit(worker, pixels, model, **how).future.result(PATIENT))


def rows(answer: Answer) -> Pixels:
    return np.frombuffer(answer.body, np.uint8).reshape(answer.height, answer.width, -1)


def as_png(image: Image.Image, **options: Any) -> bytearray:
    data = io.BytesIO()
    image.save(data, format="PNG", **options)
    return bytearray(data.getvalue())


def png_result(worker: Worker, data: bytearray, model: str = "own", *, reverse: bool = False) -> Image.Image:
    request = TranslateRequest(model, reverse, attention=False, size=None, length=len(data))
    answer = worker.submit(worker.choose(request), data).future.result(PATIENT)
    return Image.open(io.BytesIO(answer.body))


@pytest.fixture
def worker(models_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Worker]:
    """With real networks of random weights."""
    from ugatit_batch import models

    monkeypatch.setattr(models, "bundled_models_dir", lambda: tmp_path / "no models in the package")
    made = Worker(EngineOpening("cpu", models_dir=models_dir))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("model", "reverse"), [("own", False), ("own", True), ("ink", False), ("ink", True), ("whole", False)]
)
def test_its_pixels_and_its_attention_are_those_of_translate(
    worker: Worker, program: Callable[..., Outcome], tmp_path: Path, model: str, reverse: bool
) -> None:
    pictures = {f"{width}x{height}": colours(width, height, 5) for width, height in SIZES}
    for name, pixels in pictures.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    arguments = ["-m", model, "-o", tmp_path / "out", "--attention", "mask", "--device", "cpu"]
    outcome = program("translate", tmp_path / "in", *arguments, *(["--reverse"] if reverse else []))
    assert outcome.code == 0, outcome.err
    for name, pixels in pictures.items():
        expected = pixels_of(tmp_path / "out" / f"{name}.png")
        assert np.array_equal(result(worker, pixels, model, reverse=reverse), expected), name
        both = result(worker, pixels, model, reverse=reverse, attention=True)
        assert np.array_equal(both[..., :3], expected), name
        with Image.open(tmp_path / "out" / f"{name}.mask.png") as mask:
            assert np.array_equal(both[..., 3], np.asarray(mask)), name
        sent = as_png(Image.fromarray(pixels))
        with png_result(worker, sent, model, reverse=reverse) as answered:
            assert np.array_equal(np.asarray(answered), expected), name


def odd_pngs() -> dict[str, bytearray]:
    pixels = Image.fromarray(colours(40, 27, 2))
    deep = (np.asarray(pixels.convert("L")).astype(np.uint16) * 257) ^ 3
    alpha = pixels.copy()
    alpha.putalpha(pixels.convert("L"))
    palette = pixels.quantize(7)
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return {
        "deep grey": as_png(Image.fromarray(deep)),
        "palette": as_png(palette),
        "palette with a clear colour": as_png(palette, transparency=2),
        "alpha": as_png(alpha),
        "grey": as_png(pixels.convert("L")),
        "grey and alpha": as_png(alpha.convert("LA")),
        "black and white": as_png(pixels.convert("1")),
        "a profile that does not fit": as_png(pixels, icc_profile=wide.tobytes()),
        "in colours of its own": as_png(pixels, icc_profile=swapped_profile()),
        "rows in any order": as_png(pixels, interlace=1),
    }


def swapped_profile() -> bytes:
    """sRGB with another gamma, as a scanner or a screen may have it."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    for index in range(count):
        at = 132 + 12 * index
        if bytes(data[at : at + 4]) in (b"rTRC", b"gTRC", b"bTRC"):
            offset = int.from_bytes(data[at + 4 : at + 8], "big")
            data[offset : offset + 14] = b"curv\0\0\0\0\0\0\0\1\1\0"  # a gamma of 1
    return bytes(data)


@pytest.mark.parametrize("kind", list(odd_pngs()))
def test_any_kind_of_png_comes_back_as_from_translate_without_its_alpha(
    worker: Worker, program: Callable[..., Outcome], tmp_path: Path, kind: str
) -> None:
    data = odd_pngs()[kind]
    (tmp_path / "a.png").write_bytes(data)
    outcome = program(
        "translate", tmp_path / "a.png", "-m", "own", "-o", tmp_path / "b.png", "--device", "cpu"
    )
    assert outcome.code == 0, outcome.err
    with Image.open(tmp_path / "b.png") as expected, png_result(worker, data) as answered:
        assert answered.mode == "RGB"
        assert np.array_equal(np.asarray(answered), np.asarray(expected.convert("RGB")))
        assert answered.info.get("icc_profile") == expected.info.get("icc_profile")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad_request"),
        (b"GIF89a", "bad_request"),
        (bytes(as_png(Image.effect_noise((60, 60), 50)))[:900], "bad_request"),
        (bytes(as_png(Image.new("RGB", (8193, 8193)), compress_level=9)), "too_large"),
    ],
)
def test_what_is_no_whole_png_or_a_bomb_is_refused(worker: Worker, data: bytes, code: str) -> None:
    request = TranslateRequest("own", reverse=False, attention=False, size=None, length=len(data))
    job = worker.submit(worker.choose(request), bytearray(data))
    error = job.future.exception(PATIENT)
    assert error is not None
    assert refusal(error).code == code


def test_a_bomb_is_not_decoded(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import PngImagePlugin

    data = as_png(Image.new("L", (8200, 8200)))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(RefusedError, match="million pixels"):
        png_result(worker, data)


def test_two_models_stay_loaded_and_the_one_not_used_for_longest_goes(models_dir: Path) -> None:
    opening = StandInOpening(models_dir)
    worker = Worker(opening)
    pixels = colours(16, 16)
    for model in ("own", "ink", "own", "whole", "own", "ink"):
        result(worker, pixels, model)
        assert len(worker.loaded) <= 2
    assert [name for name, _ in opening.opened] == ["own", "ink", "whole", "ink"]
    assert worker.loaded == ("own", "ink")
    worker.close()


def test_a_model_that_was_replaced_is_loaded_anew(tmp_path: Path) -> None:
    make_model(tmp_path / "own", working=WorkingSize("native", 64), directions=("a2b",))
    worker = Worker(EngineOpening("cpu", models_dir=tmp_path))
    pixels = colours(24, 24)
    first = result(worker, pixels)
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(RefusedError, match="no model"):
        submit(worker, pixels)
    other = make_model(tmp_path / "other", directions=("a2b", "b2a"))
    second = make_model(tmp_path / "own", working=WorkingSize("native", 64), directions=("b2a", "a2b"))
    assert second.digest("a2b") == other.digest("b2a")
    assert not np.array_equal(result(worker, pixels), first)
    worker.close()


def test_a_model_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    make_model(tmp_path / "own")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "bundle.json").write_text("{}", "utf-8")
    for file in (tmp_path / "own").glob("*.safetensors"):
        file.write_bytes(b"cut off")
    worker = Worker(EngineOpening("cpu", models_dir=tmp_path))
    assert "own" in {model["name"] for model in worker.models()}
    assert "cut" not in {model["name"] for model in worker.models()}
    pixels = colours(16, 16)
    with pytest.raises(RefusedError) as refused:
        submit(worker, pixels, "cut")
    assert (refused.value.code, "damaged" in refused.value.message) == ("not_possible", True)
    error = submit(worker, pixels, "own").future.exception(PATIENT)
    assert error is not None
    assert refusal(error).code == "not_possible"
    assert "checksum" in refusal(error).message
    worker.close()


@pytest.mark.parametrize("name", ["../own", "/tmp", ".", "", "OWN", "own/", "own\0", "..\\own"])
def test_only_names_name_models(worker: Worker, name: str, models_dir: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        submit(worker, colours(8, 8), name)
    assert refused.value.code == "model_not_found"


def test_a_model_is_not_named_by_its_path(worker: Worker, models_dir: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        submit(worker, colours(8, 8), str(models_dir / "own"))
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            MemoryLacksError("9×9: too large for the memory of cuda:0", "use --device cpu"),
            "not_possible",
            "too",
        ),
        (MemoryError(), "not_possible", "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "not_possible", "memory"),
        (ValueError("something"), "internal", "something"),
        (SystemExit(3), "internal", "SystemExit"),
    ],
)
def test_it_survives_every_error(models_dir: Path, error: BaseException, code: str, words: str) -> None:
    broken = [error]

    def break_once(_: Pixels) -> None:
        if broken:
            raise broken.pop()

    worker = Worker(StandInOpening(models_dir, lambda: InvertingTranslator(before=break_once)))
    pixels = colours(16, 16)
    raised = submit(worker, pixels).future.exception(PATIENT)
    assert raised is error
    told = refusal(error)
    assert (told.code, words in told.message) == (code, True)
    assert "--" not in told.hint or code == "internal"
    assert np.array_equal(result(worker, pixels), 255 - pixels)
    worker.close()


def test_a_picture_too_large_for_the_memory_is_refused_in_words_for_editors(models_dir: Path) -> None:
    rule = SizeRule(max_pixels=100)
    worker = Worker(StandInOpening(models_dir, lambda: InvertingTranslator(rule=rule)))
    error = submit(worker, colours(16, 16)).future.exception(PATIENT)
    assert error is not None
    told = refusal(error)
    assert (told.code, "memory" in told.message) == ("not_possible", True)
    assert "--size" not in told.message + told.hint
    worker.close()


def test_what_fits_is_asked_anew_for_every_picture(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    from ugatit_plugins import opening

    pixels = colours(32, 32)
    result(worker, pixels)
    monkeypatch.setattr(opening, "free_memory", lambda _: 1000)
    error = submit(worker, pixels).future.exception(PATIENT)
    assert error is not None
    assert refusal(error).code == "not_possible"
    monkeypatch.undo()
    assert worker.loaded == ("own",)


def test_a_picture_that_nobody_waits_for_is_not_begun_or_thrown_away(models_dir: Path) -> None:
    gate = Gate()
    worker = Worker(StandInOpening(models_dir, lambda: InvertingTranslator(before=gate)))
    pixels = colours(16, 16)
    begun, waiting, last = (submit(worker, pixels) for _ in range(3))
    assert gate.begun.acquire(timeout=PATIENT)
    begun.abandon()
    waiting.abandon()
    gate.opened.set()
    assert np.array_equal(rows(last.future.result(PATIENT)), 255 - pixels)
    assert gate.count == 2
    assert waiting.future.cancelled()
    assert begun.future.exception(PATIENT) is not None
    worker.close()


def test_closing_finishes_what_is_worked_on_and_cancels_what_waits(models_dir: Path) -> None:
    gate = Gate()
    worker = Worker(StandInOpening(models_dir, lambda: InvertingTranslator(before=gate)))
    pixels = colours(16, 16)
    begun, waiting = (submit(worker, pixels) for _ in range(2))
    assert gate.begun.acquire(timeout=PATIENT)
    closing = threading.Thread(target=worker.close)
    closing.start()
    until(waiting.future.cancelled)
    gate.opened.set()
    closing.join(PATIENT)
    assert np.array_equal(rows(begun.future.result(PATIENT)), 255 - pixels)
    with pytest.raises(RefusedError, match="stopping"):
        submit(worker, pixels)
    assert "network_0" not in {thread.name for thread in threading.enumerate()}
