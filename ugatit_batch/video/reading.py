"""The packets of a film's file, over places that cannot be read.

Knows nothing of decoders and of what packets are for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from av.error import FFmpegError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from av.container import InputContainer
    from av.packet import Packet

_FAILURES = 20
"""In a row, after which a file is given up."""


class Reading:
    """One reading of a file, from where it stands to its end.

    Args:
        container: the file; streams that are not wanted are discarded there.
        damaged: is called where something could not be read.
    """

    def __init__(self, container: InputContainer, damaged: Callable[[], None]) -> None:
        self._container, self._damaged = container, damaged
        self.gave_up = False
        """Whether reading ended before the file did."""

    def packets(self) -> Iterator[Packet[Any]]:
        """Those with data, in the file's order.

        Raises:
            OSError: the disk does not read the file.
            MemoryError: FFmpeg got no memory, perhaps because damage asked for a size of no sense.
        """
        failures = 0
        packets = self._container.demux()
        while failures < _FAILURES:
            try:
                packet = next(packets, None)
            except IndexError:
                # PyAV ends so at the end of a file with a stream that its beginning does not name.
                failures += 1
                packets = self._container.demux()
                continue
            except FFmpegError as error:
                on_disk = isinstance(error, OSError) and not isinstance(error, BlockingIOError)
                if on_disk or isinstance(error, MemoryError):
                    raise
                failures += 1
                self._damaged()
                # A generator that has raised is over.
                packets = self._container.demux()
                continue
            if packet is None:
                return
            if packet.size:
                failures = 0
                yield packet
        self.gave_up = True
