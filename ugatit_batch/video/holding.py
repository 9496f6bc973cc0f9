"""Which streams of a source a container holds as they are, by the judgement of FFmpeg's own muxers.

Knows nothing of packets.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, cast

import av

from ugatit_batch.video.containers import MUXERS
from ugatit_batch.video.sound import LAYOUTS

if TYPE_CHECKING:
    from av.container import OutputContainer

    from ugatit_batch.video.containers import Container


def holds(container: Container, stream: av.stream.Stream) -> bool:
    """Whether a container holds a stream as it is, by the judgement of FFmpeg's own muxer."""
    if not has_decoder(stream):
        return False
    with av.open(io.BytesIO(), "w", format=MUXERS[container]) as trial:
        try:
            copy_stream(trial, stream)
            trial.start_encoding()
        except (av.FFmpegError, ValueError):
            return False
    return True


def copy_stream(output: OutputContainer, stream: av.stream.Stream) -> av.stream.Stream:
    """A stream of the result for packets of one of the source."""
    target = output.add_stream_from_template(stream, opaque=True)
    if isinstance(target, av.AudioStream):
        context = target.codec_context
        # WAV and AVI say how many channels there are, but not which; MP4 wants to know.
        if context.layout.name not in LAYOUTS and context.channels in (1, 2):
            context.layout = LAYOUTS[context.channels - 1]
    return target


def is_known(stream: av.AudioStream) -> bool:
    """Whether the file's beginning tells how its sound is to be played, which no container does without."""
    return bool(stream.rate) and stream.channels > 0


def has_decoder(stream: av.stream.Stream) -> bool:
    """Whether FFmpeg has a decoder for a stream of a source."""
    # PyAV's types say that there always is one.
    return cast("object | None", stream.codec_context) is not None


def codec_name(stream: av.stream.Stream) -> str:
    """What FFmpeg calls the codec of a stream, for messages too."""
    return stream.codec_context.codec.canonical_name if has_decoder(stream) else "unknown codec"
