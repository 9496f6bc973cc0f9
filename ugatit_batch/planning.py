"""Which outputs a command makes out of which inputs, decided before any work.

Names decide what is a picture and what is a film. Knows nothing of what is in the files, except that programs
in TypeScript are no films.
"""

from __future__ import annotations

import os
import string
import sys
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ugatit_batch.errors import NothingToDoError, PictureError, UsageError
from ugatit_batch.images.read import PICTURE_SUFFIXES
from ugatit_batch.images.sidecars import Kind, picture_sidecar_path
from ugatit_batch.images.write import OUTPUT_SUFFIXES, Encoding, output_suffix
from ugatit_batch.video.attention import film_sidecar_path
from ugatit_batch.video.containers import FILM_SUFFIXES, OUTPUT_FILM_SUFFIXES, film_suffix, is_program
from ugatit_batch.walk import walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ugatit_batch.video.info import FilmFormat

_PLACEHOLDERS = {"parent", "stem", "ext", "model"}
DEFAULT_NAME = "{parent}/{stem}{ext}"


@dataclass(frozen=True)
class Job:
    """One file to translate."""

    source: Path
    """As it was found below the input that was given."""
    target: Path
    root: Path | None
    """The output folder whose journal knows this job; None where a single file was asked for."""

    @property
    def is_film(self) -> bool:
        """Whether it is a film, by its name."""
        return is_film(self.source)


def is_film(path: Path) -> bool:
    """Whether a file is a film, by its name."""
    return path.suffix.lower() in FILM_SUFFIXES


def is_media(path: Path) -> bool:
    """Whether a file is a picture or a film, by its name. Programs in TypeScript may be among them."""
    return path.suffix.lower() in PICTURE_SUFFIXES | FILM_SUFFIXES


def sidecar_path(target: Path, kind: Kind) -> Path:
    """Where the attention of a result goes: beside a picture as a picture, beside a film as a film."""
    return (film_sidecar_path if is_film(target) else picture_sidecar_path)(target, kind)


@dataclass
class Plan:
    """All jobs of one command."""

    jobs: list[Job] = field(default_factory=list)
    """Sorted by source within each input; no two have the same target."""
    problems: list[tuple[Path, PictureError]] = field(default_factory=list)
    """Folders that could not be looked into."""
    ignored: int = 0
    """Files in the folders that are neither pictures nor films."""

    def roots(self) -> list[Path]:
        """The output folders, each once."""
        return list(dict.fromkeys(job.root for job in self.jobs if job.root is not None))

    def places(self) -> list[Path]:
        """Where to look for the results: the output folders, and the folders of single files."""
        return list(dict.fromkeys(job.root or job.target.parent for job in self.jobs))


@dataclass(frozen=True)
class Naming:
    """Where outputs go and what they are called (`--output`, `--name`, `--format`, `--attention`)."""

    output: Path | None
    """Folder, or a file for a single input; None: INPUT_MODEL beside each input."""
    label: str
    """What stands for the model in names: its name, with `-reverse` where it runs backwards."""
    encoding: Encoding
    template: str = DEFAULT_NAME
    attention: tuple[Kind, ...] = ()
    container: FilmFormat = "auto"
    """Of films."""

    def __post_init__(self) -> None:
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None]
        except ValueError as error:
            raise UsageError(
                f"--name {self.template!r}: {error}", f"the default is {DEFAULT_NAME}"
            ) from error
        unknown = [name for name in fields if name not in _PLACEHOLDERS]
        if unknown or "stem" not in fields:
            words = ", ".join(f"{{{name}}}" for name in sorted(_PLACEHOLDERS))
            wrong = f"{{{unknown[0]}}} means nothing" if unknown else "{stem} is missing"
            raise UsageError(f"--name {self.template!r}: {wrong}", f"it may hold {words}")
        try:
            self.relative(Path("name.png"), "")
        except (ValueError, LookupError) as error:
            raise UsageError(
                f"--name {self.template!r}: {error}", f"the default is {DEFAULT_NAME}"
            ) from error

    def suffix(self, source: Path) -> str:
        """Of the output, with its dot."""
        if is_film(source):
            return film_suffix(source, self.container)
        return output_suffix(source, self.encoding)

    def relative(self, source: Path, parent: str) -> str:
        """The output's path below the output folder."""
        ext = self.suffix(source)
        template = self.template if "{ext}" in self.template else self.template + "{ext}"
        return template.format(parent=parent or ".", stem=source.stem, ext=ext, model=self.label)


def plan(inputs: Sequence[Path], naming: Naming, recursive: bool = True) -> Plan:
    """Find the pictures and films, and decide where each output goes.

    Args:
        inputs: files and folders; a folder's tree is mirrored below the output folder.
        naming: where outputs go and what they are called.
        recursive: whether folders inside folders are looked through.

    Raises:
        UsageError: an input is missing, a folder would be its own output, an output would replace an input,
            or two files would have one output.
        NothingToDoError: there is no picture and no film.
    """
    if naming.output is not None and naming.output.suffix.lower() in OUTPUT_SUFFIXES | OUTPUT_FILM_SUFFIXES:
        one_file = len(inputs) == 1 and not inputs[0].is_dir()
        if not one_file and not naming.output.is_dir():
            raise UsageError(
                f"--output {naming.output}: is the name of one file, and the inputs may be many",
                "give a folder",
            )
    made = Plan()
    for given in inputs:
        # Unlike `Path.exists`, it takes any name, too long ones too.
        if not os.path.exists(given):  # noqa: PTH110
            raise UsageError(f"{given}: no such file or folder", "check the path")
    roots = {given: output_folder(given, naming) for given in inputs if given.is_dir()}
    outputs = frozenset(root.resolve() for root in roots.values())
    for given in inputs:
        if given in roots:
            _plan_folder(made, given, roots[given], naming, outputs, recursive)
        else:
            made.jobs.append(_plan_file(given, naming, alone=len(inputs) == 1))
    if not made.jobs and not made.problems:
        where = ", ".join(str(path) for path in inputs)
        raise NothingToDoError(
            f"{where}: no picture and no film in it",
            f"they are files such as .jpg, .png or .mp4; {made.ignored} other files were left alone",
        )
    _check_clashes(made.jobs, naming.attention)
    return made


def _plan_file(source: Path, naming: Naming, alone: bool) -> Job:
    output = naming.output
    if output is None and naming.template != DEFAULT_NAME:
        return Job(source, _inside(source.parent, naming.relative(source, "")), None)
    if output is None:
        return Job(source, source.with_name(f"{source.stem}_{naming.label}{naming.suffix(source)}"), None)
    if alone and not output.is_dir() and output.suffix:
        what, written, format_ = "picture", OUTPUT_SUFFIXES, str(naming.encoding.format)
        if is_film(source):
            what, written, format_ = "film", OUTPUT_FILM_SUFFIXES, str(naming.container)
        if output.suffix.lower() not in written:
            raise UsageError(
                f"--output {output}: {output.suffix} is not a format that a {what} is written in",
                f"use one of {' '.join(sorted(written))}, or a folder",
            )
        if naming.suffix(output) != output.suffix:
            raise UsageError(
                f"--output {output}: its name does not fit --format {format_}",
                f"leave --format out, or use {output.with_suffix('.' + format_)}",
            )
        return Job(source, output, None)
    return Job(source, _inside(output, naming.relative(source, "")), output)


def output_folder(given: Path, naming: Naming) -> Path:
    """The output folder of an input folder.

    Raises:
        UsageError: it has no name to make one from, or would be its own output.
    """
    folder = given.resolve()
    if naming.output is None:
        if folder.name == "":
            raise UsageError(f"{given}: has no name to make an output folder's from", "give --output")
        return folder.with_name(f"{folder.name}_{naming.label}")
    if naming.output.resolve() == folder:
        # The next run would take its results for inputs.
        raise UsageError(f"{given}: is the input and the output", "give another folder with --output")
    return naming.output


def _plan_folder(
    made: Plan, given: Path, root: Path, naming: Naming, outputs: frozenset[Path], recursive: bool
) -> None:
    def problem(folder: Path, error: OSError) -> None:
        why = f"{folder}: cannot be looked into: {error.strerror}"
        made.problems.append((folder, PictureError(why, "check its permissions")))

    found = walk(given, skip=lambda folder: folder.resolve() in outputs, recursive=recursive, problem=problem)
    for source, _ in found:
        if not is_media(source) or is_program(source):
            made.ignored += 1
        else:
            made.jobs.append(job_for(source, given, root, naming))


def job_for(source: Path, folder: Path, root: Path, naming: Naming) -> Job:
    """The job of one file of an input folder: its target mirrors the tree.

    Args:
        source: the file, below `folder`.
        folder: the input.
        root: the output folder.
        naming: what outputs are called.

    Raises:
        UsageError: the target would lie outside of `root`.
    """
    parent = source.parent.relative_to(folder).as_posix()
    return Job(source, _inside(root, naming.relative(source, parent)), root)


def _inside(root: Path, relative: str) -> Path:
    """`root / relative`, made plain.

    Raises:
        UsageError: it would lie outside of root.
    """
    target = Path(os.path.normpath(root / relative))
    if not target.is_relative_to(Path(os.path.normpath(root))) or Path(relative).is_absolute():
        raise UsageError(f"--name: {relative} lies outside of the output folder {root}", "leave '..' out")
    return target


def _check_clashes(jobs: Sequence[Job], attention: Sequence[Kind]) -> None:
    owners: dict[str, Path] = {}
    sources = {same_name(job.source.resolve()): job.source for job in jobs}
    for job in jobs:
        for target in (job.target, *(sidecar_path(job.target, kind) for kind in attention)):
            name = same_name(target.resolve())
            if name in sources:
                raise UsageError(
                    f"{target}: the output would replace the input {sources[name]}",
                    "give another folder with --output",
                )
            if name in owners:
                raise UsageError(
                    f"{owners[name]} and {job.source} would both become {target}",
                    "rename one of them, or translate them in two runs with an --output each",
                )
            owners[name] = job.source


def same_name(path: Path) -> str:
    """Equal for two names of one file on this system."""
    if sys.platform in ("darwin", "win32"):
        return unicodedata.normalize("NFC", str(path)).casefold()
    return str(path)
