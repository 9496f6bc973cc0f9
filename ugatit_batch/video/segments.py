"""What is kept of a film that is not finished, so that a killed run goes on after the last whole segment.

A hidden folder beside the film's target: the segments, and `state.json`, replaced as a whole after each.
Knows nothing of what is in a segment.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ugatit_batch.atomic import explain_os_error, partial_path, replacing
from ugatit_batch.errors import OutputBusyError, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_STATE, _LOCK = "state.json", "lock"


@dataclass(frozen=True)
class Segment:
    """One whole segment. Times are in the film's time base."""

    pictures: int
    repeated: int
    """How many of them stand for damaged ones."""
    last: int
    """Timestamp of its last picture."""
    last_duration: int
    """Duration of that picture; 0 where nothing is known."""
    checksum: int
    """Of what the network saw of that picture."""


@dataclass
class State:
    """How far a film has come, and what the pictures after that have to know of those before."""

    first: int | None = None
    """Timestamp of the film's first picture."""
    segments: list[Segment] = field(default_factory=list)
    complete: bool = False
    """Whether there are no more pictures: only joining is left."""
    style: list[float] | None = None
    """Averaged style of the last picture."""
    attention: list[float] | None = None
    """Running range of the attention."""
    flicker: dict[str, dict[str, object]] = field(default_factory=dict)
    """Of source and result."""
    shifts: list[int] = field(default_factory=list)
    """By how much timestamps were moved on in all after each jump back, once it is complete."""
    notes: list[str] = field(default_factory=list)
    """Of the reading, once it is complete."""

    @property
    def pictures(self) -> int:
        """In all whole segments."""
        return sum(segment.pictures for segment in self.segments)


class SegmentFolder:
    """The folder of one film's segments. Belongs to one run alone until it is closed.

    Args:
        target: where the film goes.
        identity: whatever else than this was begun there is thrown away.
        names: what is kept of each segment, as for `segment`.
        resume: False throws it away in any case.

    Raises:
        OutputBusyError: another run works on the same film.
        OutputError, DiskFullError: the folder cannot be written.
    """

    def __init__(self, target: Path, identity: str, names: Sequence[str], *, resume: bool = True) -> None:
        self.path = _folder_of(target)
        self._target, self._identity, self._names = target, identity, names
        self._lock = FileLock(self.path / _LOCK, thread_local=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise OutputBusyError(
                f"{target}: another run works on this film",
                "wait until it is done, or choose another --output",
            ) from error
        except OSError as error:
            raise explain_os_error(error, target) from error
        except NotImplementedError as error:
            raise OutputError(
                f"{target}: its disk cannot lock files", "write to another disk with --output"
            ) from error
        self.state = self._load() if resume else State()
        self._sweep()

    def segment(self, index: int, name: str) -> Path:
        """The file of a segment.

        Args:
            index: of the segment, from 0.
            name: which of the films that are made of the same pictures, and the file's suffix.
        """
        return self.path / f"{index:06}.{name}"

    def keep(self) -> None:
        """Write the state down.

        Raises:
            OutputError, DiskFullError: it cannot be written.
        """
        text = json.dumps({"identity": self._identity} | asdict(self.state))
        with replacing(self.path / _STATE) as partial:
            partial.write_text(text, "ascii")

    def remove(self) -> None:
        """The film is done: nothing is left."""
        # First what says that the rest is there: this may be killed, too.
        with contextlib.suppress(OSError):
            (self.path / _STATE).unlink(missing_ok=True)
        self.state = State()
        self.close()

    def close(self) -> None:
        """Leave what is whole to a later run; where that is nothing, nothing is left."""
        if not self._lock.is_locked:
            return
        if self.state.segments:
            self._lock.release()
        else:
            _take_away(self.path, self._lock)

    @staticmethod
    def discard_finished(target: Path) -> None:
        """Remove what a run that was killed in its last step has left of a film that is done."""
        folder = _folder_of(target)
        lock = FileLock(folder / _LOCK, thread_local=False)
        with contextlib.suppress(OSError, NotImplementedError, Timeout):
            if not folder.is_dir():
                return
            lock.acquire(blocking=False)
            if _is_unfinished(folder):
                lock.release()
            else:
                _take_away(folder, lock)

    def _load(self) -> State:
        """What an earlier run of the same film has kept."""
        try:
            kept = json.loads((self.path / _STATE).read_text("ascii"))
            if kept.pop("identity") != self._identity:
                return State()
            kept["segments"] = [Segment(**segment) for segment in kept["segments"]]
            state = State(**kept)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            # None yet, or of another version.
            return State()
        indices = range(len(state.segments))
        whole = all(self.segment(index, name).is_file() for index in indices for name in self._names)
        return state if whole else State()

    def _sweep(self) -> None:
        """Delete what was begun after the state was written, or belongs to something else."""
        whole = {f"{index:06}" for index in range(len(self.state.segments))}
        keep = {_LOCK, _STATE} if whole else {_LOCK}
        for path in self.path.iterdir():
            if path.name not in keep and path.name.partition(".")[0] not in whole:
                with contextlib.suppress(OSError):
                    path.unlink()


def _folder_of(target: Path) -> Path:
    # Named after the whole target: a.mp4 and a.mkv have a folder each.
    return partial_path(target.with_name(f"{target.name}.segments"))


def _is_unfinished(folder: Path) -> bool:
    """Whether there is something to go on from."""
    try:
        return not json.loads((folder / _STATE).read_text("ascii"))["complete"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, LookupError, TypeError):
        return True


def _take_away(folder: Path, lock: FileLock) -> None:
    """Delete a folder whose lock is held, as far as it can be; the lock last."""
    for path in folder.iterdir():
        if path.name != _LOCK:
            with contextlib.suppress(OSError):
                path.unlink()
    lock.release()
    with contextlib.suppress(OSError):
        (folder / _LOCK).unlink(missing_ok=True)
        folder.rmdir()
