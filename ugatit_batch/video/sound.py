"""A track of sound that is encoded anew, because it was asked for or because the container holds no other.

Knows nothing of containers.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from av.container import OutputContainer

    from ugatit_batch.video.tracks import Packet, Window

_BITS_PER_CHANNEL = {"aac": 96_000, "libopus": 64_000}
LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")
"""By the number of channels: what all players and both encoders know."""


class EncodedTrack:
    """Sound that is decoded, brought to what the encoder takes, and encoded.

    Its times stay, and gaps become silence.

    Args:
        name: of the track, for notes.
        source: stream of the source.
        output: the result, which gets a new stream.
        encoder: `aac` or `libopus`.
        window: which part is wanted.

    Raises:
        av.FFmpegError, ValueError: there is no decoder, or its sound has no rate or channels.
    """

    def __init__(
        self, name: str, source: av.AudioStream, output: OutputContainer, encoder: str, window: Window
    ) -> None:
        self._name, self._window = name, window
        self._decoder = source.codec_context
        rates = av.Codec(encoder, "w").audio_rates or []
        rate = source.rate if source.rate in rates else 48_000
        layout = LAYOUTS[min(max(source.channels, 1), len(LAYOUTS)) - 1]
        self.stream = cast(av.AudioStream, output.add_stream(encoder, rate=rate))
        context = self._encoder = self.stream.codec_context
        context.layout = layout
        context.bit_rate = _BITS_PER_CHANNEL[encoder] * context.channels
        context.time_base = self.stream.time_base = Fraction(1, rate)
        context.open()
        self._graph: av.filter.Graph | None = None
        self._graph_input: tuple[Any, ...] = ()
        self._damaged = 0

    @property
    def notes(self) -> list[str]:
        """See `Track`."""
        return [f"packets of {self._name} that could not be read: {self._damaged}"] if self._damaged else []

    def take(self, packet: Packet) -> Iterable[Packet]:
        """See `Track`."""
        try:
            frames = self._decoder.decode(packet)
        except av.FFmpegError:
            self._damaged += 1
            return
        yield from self._encode(frames)

    def finish(self) -> Iterable[Packet]:
        """See `Track`."""
        try:
            frames = self._decoder.decode(None)
        except av.FFmpegError:
            frames = []
        yield from self._encode(frames)
        yield from self._drain()
        yield from self._packets(None)

    def _encode(self, frames: list[av.AudioFrame]) -> Iterator[Packet]:
        for frame in frames:
            if frame.pts is None or frame.time_base is None:
                continue
            time = frame.pts * frame.time_base
            if self._window.is_before(time) or self._window.is_after(time):
                continue
            frame.pts = round((time - self._window.shift) * frame.sample_rate)
            frame.time_base = Fraction(1, frame.sample_rate)
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            if kind != self._graph_input:
                yield from self._drain()
            try:
                graph = self._graph = self._graph or self._new_graph(frame)
                self._graph_input = kind
                graph.push(frame)
            except (av.FFmpegError, ValueError):
                # Damage can make frames of no sense: no channels, no rate.
                self._damaged += 1
                self._graph = None
                continue
            yield from self._pull()

    def _new_graph(self, frame: av.AudioFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        encoder = self._encoder
        source = graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format,
            layout=frame.layout,
            time_base=Fraction(1, frame.sample_rate),
        )
        # Silence where the source has a gap of a tenth of a second or more.
        resample = graph.add("aresample", f"{encoder.sample_rate}:async=1:min_hard_comp=0.1")
        form = graph.add(
            "aformat",
            f"sample_fmts={encoder.format.name}:sample_rates={encoder.sample_rate}"
            f":channel_layouts={encoder.layout.name}",
        )
        sink = graph.add("abuffersink")
        graph.link_nodes(source, resample, form, sink).configure()
        if encoder.frame_size:
            graph.set_audio_frame_size(encoder.frame_size)
        return graph

    def _pull(self) -> Iterator[Packet]:
        while self._graph is not None:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            yield from self._packets(cast(av.AudioFrame, frame))

    def _drain(self) -> Iterator[Packet]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull()
        self._graph = None
        self._graph_input = ()

    def _packets(self, frame: av.AudioFrame | None) -> Iterator[Packet]:
        for packet in self._encoder.encode(frame):
            packet.stream = self.stream
            yield packet
