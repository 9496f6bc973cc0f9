"""Pictures, films and a model to measure with, where the user's own are not asked for.

Nothing here looks like anything; it only costs what real pictures and models cost.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import count as count_from
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import av
import numpy as np
import torch
from PIL import Image
from torch import nn

from ugatit_batch.bundle import DIRECTIONS, Bundle, WorkingSize, save_bundle
from ugatit_training.generator import Generator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from ugatit_batch.bundle import GeneratorConfig
    from ugatit_batch.frames import Pixels

LARGEST_SIDE = 16384
"""Of anything that is made here, in pixels."""
RATE = 25
"""Pictures a second of a film."""
PERIOD = 100
"""Pictures after which a film's content comes again."""

_QUALITY = 90  # of the JPEG files, as cameras and phones write them
# In units of 8-bit levels; with these a file takes about 2 bits a pixel, as photographs do.
_CONTRAST, _COLOUR, _GRAIN = 45.0, 18.0, 6.0
# Keeps most of tanh's input between -1 and 1, so that results take as much room in a file as photographs do.
_OUTPUT_CONTRAST = 0.3

_PAN = 32  # pixels that the view goes to each side; two pixels from picture to picture at most
_FRESH_GRAIN = 4.0  # levels of 8 bits, of what is new in each picture
_LIGHT = 4.0  # levels that the light goes up and down
# With these a film of 1280×720 takes about 0.2 bits a pixel, 4.5 Mbit a second, as good streams do.
_FILM_CODING = {"preset": "veryfast", "crf": "22", "flags": "+global_header+cgop"}
_SOUND_RATE, _SOUND_FRAME = 48000, 1024  # samples, and those of one packet of AAC
_SOUND_PACKETS = 100  # that differ


def texture(side: int, rng: np.random.Generator) -> Pixels:
    """One picture with the spectrum of a photograph: noise at every scale, stronger where it is coarser.

    Args:
        side: in pixels.
        rng: what is in it.

    Returns:
        uint8, side×side×3, RGB.
    """
    light, colour = _clouds(side, rng), np.stack([_clouds(side, rng) for _ in range(3)], axis=-1)
    grain = rng.normal(0, _GRAIN, (side, side, 1))
    levels = 128 + _CONTRAST * light[..., None] + _COLOUR * colour + grain
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _clouds(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """side×side, mean about 0 and deviation 1."""
    total = np.zeros((side, side), np.float32)
    for octave in range(int(math.log2(side))):
        cells = 2 ** (octave + 1)
        noise = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
        total += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)) / cells
    total -= total.mean()
    total /= total.std()
    return total


def write_pictures(folder: Path, count: int, side: int, *, suffix: str = ".jpg", seed: int = 0) -> list[Path]:
    """Write `count` different pictures of side×side pixels; return their paths in order.

    Args:
        folder: must exist.
        count: above 0.
        side: 16 to 16384.
        suffix: `.jpg` (quality 90) or a lossless format's.
        seed: of what is in them.
    """
    if not 16 <= side <= LARGEST_SIDE:
        raise ValueError(f"a side of 16 to {LARGEST_SIDE} pixels, not {side}")
    rng = np.random.default_rng(seed)
    # Few are drawn: turning and shifting gives the others for less, and decoders do not notice.
    drawn = [texture(side, rng) for _ in range(min(count, 8))]
    paths = []
    for index in range(count):
        path = folder / f"picture-{index:05}{suffix}"
        pixels = np.roll(np.rot90(drawn[index % 8], index // 8), index // 32, axis=1)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=_QUALITY)
        paths.append(path)
    return paths


class _Encoded(NamedTuple):
    """What of a packet is written; times from 0, in units of the stream's time base."""

    data: bytes
    pts: int
    dts: int
    is_keyframe: bool


def moving_pictures(width: int, height: int, *, seed: int = 0) -> Iterator[Pixels]:
    """Pictures of a film without end: a view that wanders, a part that moves against it, light and grain.

    Each is uint8, height×width×3, RGB; after PERIOD pictures all comes again.
    """
    rng = np.random.default_rng(seed)
    whole = texture(max(width, height) + 2 * _PAN, rng).astype(np.int16)
    grains = [rng.normal(0, _FRESH_GRAIN, (height, width, 1)).round().astype(np.int16) for _ in range(5)]
    top, left, rows, columns = height // 3, width // 3, height // 3, width // 3
    for index in count_from():
        turn = 2 * math.pi * (index % PERIOD) / PERIOD
        x, y = _PAN + round(_PAN * math.sin(turn)), _PAN + round(_PAN / 2 * math.sin(2 * turn))
        levels = whole[y : y + height, x : x + width] + round(_LIGHT * math.sin(turn))
        across, down = 2 * _PAN - x, 2 * _PAN - y
        levels[top : top + rows, left : left + columns] = whole[down : down + rows, across : across + columns]
        # 20 divides PERIOD: 5 fields, each shown from 4 sides.
        flips = slice(None, None, 1 - 2 * (index // 5 % 2)), slice(None, None, 1 - 2 * (index // 10 % 2))
        levels += grains[index % 5][flips]
        yield np.asarray(np.clip(levels, 0, 255), np.uint8)


def write_film(
    path: Path, count: int, width: int, height: int, *, has_sound: bool = True, seed: int = 0
) -> None:
    """Write a film of H.264 with B-frames, 25 pictures a second, that costs a decoder what films cost.

    It takes no longer for many pictures than for PERIOD of them: their packets are written again and again.

    Args:
        path: the file, which is made or replaced; its suffix names the container.
        count: pictures in it, above 0.
        width: of its pictures, in pixels; even, 16 to 16384.
        height: the same.
        has_sound: whether a track of AAC goes along.
        seed: of what is in it.
    """
    if not all(16 <= side <= LARGEST_SIDE and side % 2 == 0 for side in (width, height)):
        raise ValueError(f"even sides of 16 to {LARGEST_SIDE} pixels, not {width}×{height}")
    rounds, rest = divmod(count, PERIOD)
    whole = _encode_pictures(PERIOD, width, height, seed) if rounds else []
    part = _encode_pictures(rest, width, height, seed) if rest else []
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=RATE)
        _set_up(video.codec_context, width, height)
        audio = output.add_stream("aac", rate=_SOUND_RATE, layout="stereo") if has_sound else None
        sound = _encode_sound() if has_sound else []
        output.start_encoding()
        heard = 0
        for number, chunk in enumerate([whole] * rounds + [part]):
            for one in chunk:
                output.mux(_packet(one, number * PERIOD, Fraction(1, RATE), video))
            if audio is not None:
                end = -(-min(count, (number + 1) * PERIOD) * _SOUND_RATE // (RATE * _SOUND_FRAME))
                for index in range(heard, end):
                    one = _Encoded(
                        sound[index % len(sound)], index * _SOUND_FRAME, index * _SOUND_FRAME, True
                    )
                    output.mux(_packet(one, 0, Fraction(1, _SOUND_RATE), audio))
                heard = end


def _set_up(context: av.VideoCodecContext, width: int, height: int) -> None:
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate = Fraction(1, RATE), Fraction(RATE)
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
    context.options = dict(_FILM_CODING)


def _encode_pictures(count: int, width: int, height: int, seed: int) -> list[_Encoded]:
    context = av.CodecContext.create("libx264", "w")
    _set_up(context, width, height)
    packets = []
    for index, pixels in enumerate(islice(moving_pictures(width, height, seed=seed), count)):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = index, context.time_base
        packets += context.encode(frame)
    packets += context.encode(None)
    return [_Encoded(bytes(one), cast(int, one.pts), cast(int, one.dts), one.is_keyframe) for one in packets]


def _encode_sound() -> list[bytes]:
    """Packets of AAC: a chord with some noise."""
    context = av.CodecContext.create("aac", "w")
    context.sample_rate, context.layout, context.format = _SOUND_RATE, "stereo", "fltp"
    context.time_base = Fraction(1, _SOUND_RATE)
    times = np.arange(_SOUND_PACKETS * _SOUND_FRAME) / _SOUND_RATE
    chord = sum(np.sin(2 * math.pi * pitch * times) for pitch in (220, 277, 330)) / 8
    samples = chord + np.random.default_rng(0).normal(0, 0.02, (2, times.size))
    packets = []
    for at in range(0, times.size, _SOUND_FRAME):
        part = np.ascontiguousarray(samples[:, at : at + _SOUND_FRAME], np.float32)
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = _SOUND_RATE, at
        packets += context.encode(frame)
    return [bytes(one) for one in packets]


def _packet(
    one: _Encoded, later: int, time_base: Fraction, stream: av.VideoStream | av.AudioStream
) -> av.Packet[Any]:
    packet = av.Packet(one.data)
    packet.pts, packet.dts = one.pts + later, one.dts + later
    packet.time_base, packet.is_keyframe, packet.stream = time_base, one.is_keyframe, stream
    return packet


def write_random_bundle(
    folder: Path, config: GeneratorConfig, *, longest: int = LARGEST_SIDE, seed: int = 0
) -> Bundle:
    """Write a model of both directions with random weights, under which activations keep their range.

    Args:
        folder: of the model.
        config: of both generators.
        longest: side, in pixels, from which a light one sees pictures smaller than they are; a full one takes
            its own size only.
        seed: of the weights.

    Raises:
        DiskFullError, OutputError: it could not be written.
    """
    weights = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for direction in DIRECTIONS:
            generator = Generator(config)
            _widen(generator)
            weights[direction] = {name: t.numpy() for name, t in generator.state_dict().items()}
    size = WorkingSize("native", longest) if config.light else WorkingSize("square", config.image_size)
    bundle = Bundle("random", ("A", "B"), config, size, {})
    return save_bundle(bundle, weights, folder)


@torch.no_grad()
def _widen(generator: Generator) -> None:
    """Weights of deviation 1/√inputs; the 0.02 that training starts from gives nearly grey results."""
    for module in generator.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.div_(module.weight.std() * math.sqrt(module.weight[0].numel()))
    generator.out.weight.mul_(_OUTPUT_CONTRAST)
