"""What a model is worth: KID over test pictures, sheets to look at, and the distribution of ρ.

Leaves networks and global random states as they were, so that a training run can evaluate itself on its way.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ugatit_batch.atomic import replacing
from ugatit_batch.bundle import DIRECTIONS
from ugatit_batch.errors import MemoryLacksError
from ugatit_training.charts import loss_chart, rho_chart, rho_layers
from ugatit_training.data import Domains, find_domains, open_rgb, to_network
from ugatit_training.data_checks import find_test_folders
from ugatit_training.kid import PROTOCOLS, check_counts, load_library
from ugatit_training.run_folder import read_metrics
from ugatit_training.scores import device_of, measure, square, to_pixels, to_tensor
from ugatit_training.sheets import Looked, attention_sheet, contact_sheet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor, nn

    from ugatit_batch.bundle import Direction
    from ugatit_batch.frames import Attention
    from ugatit_training.features import FeatureNetwork
    from ugatit_training.generator import Generator
    from ugatit_training.kid import Protocol, Score
    from ugatit_training.model import UGATIT, DomainDiscriminators

SHEET_PICTURES = 24
ATTENTION_PICTURES = 8


@dataclass(frozen=True)
class Subject:
    """The networks that are evaluated."""

    generators: Mapping[Direction, Generator]
    """One or both."""
    discriminators: Mapping[Direction, DomainDiscriminators]
    """Of the domain to which a direction leads; none where only a model is left of a run."""
    domains: tuple[str, str]
    """Names of A and B."""

    @classmethod
    def of_run(
        cls, networks: UGATIT, domains: tuple[str, str], generators: Sequence[Generator] | None = None
    ) -> Subject:
        """Both generators of a run, or others in their place (A → B, B → A), and all its discriminators."""
        a2b, b2a = generators or networks.generators()
        return cls({"a2b": a2b, "b2a": b2a}, {"a2b": networks.b, "b2a": networks.a}, domains)

    def title(self, direction: Direction) -> str:
        """For people: `photo → ink`."""
        a, b = self.domains
        return f"{a} → {b}" if direction == "a2b" else f"{b} → {a}"


@dataclass(frozen=True)
class Evaluation:
    """What was found about one direction."""

    direction: Direction
    domains: tuple[str, str]
    """Names of A and B."""
    size: int
    """Side in pixels at which every picture was translated."""
    sources: int
    """Test pictures that were translated, or would have been: without KID, those on the sheet only."""
    targets: int
    """Test pictures of the domain to which the direction leads."""
    features: str | None
    """The feature network; None: no KID was asked for."""
    features_sha256: str | None
    scores: Mapping[str, Score]
    """By name, as `scores.measure` gives them."""
    rho: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Of each direction's layers: mean, least, median and greatest ρ."""
    files: Mapping[str, Path]
    """What was written: `contact_sheet`, `attention`, `rho`, `json`."""

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings and lists only."""
        line = asdict(self)
        line["domains"] = list(self.domains)
        line["files"] = {name: str(path) for name, path in self.files.items()}
        return line


def evaluate(
    subject: Subject,
    direction: Direction,
    pictures: Domains,
    folder: Path,
    *,
    features: FeatureNetwork | None = None,
    protocols: Sequence[Protocol] = PROTOCOLS,
    batch_size: int = 1,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Evaluation:
    """Evaluate one direction: every test picture, resized to the training size, neither cropped nor mirrored.

    Writes `contact-sheet.png`, `attention.png` where a network has attention, `rho.png` where a layer has ρ,
    and `evaluation.json`.

    Args:
        subject: the networks, each on its device.
        direction: which generator.
        pictures: test pictures of A and B, in any order.
        folder: where the files go.
        features: for KID; None: the pictures alone.
        protocols: of KID.
        batch_size: pictures at once.
        about: more for `evaluation.json`, such as the model's name.
        progress: called with the number of pictures done since the last call; `work` says how many there are.

    Raises:
        DatasetError: a picture cannot be read, there are too few, or the feature network cannot take them.
        EnvironmentLacksError: torch-fidelity is not installed.
        MemoryLacksError: the device has no room for a batch.
        DiskFullError, OutputError: something could not be written.
    """
    generator = subject.generators[direction]
    judges = subject.discriminators.get(direction)
    sources, targets = sorted(pictures.a), sorted(pictures.b)
    if direction == "b2a":
        sources, targets = targets, sources
    protocols = protocols if features is not None else ()
    if protocols:
        check_evaluable(pictures, direction, protocols)
    everyone: list[nn.Module] = [generator] if judges is None else [generator, judges]
    try:
        with torch.no_grad(), _evaluating(everyone):
            looked = [_look(generator, judges, path) for path in _spread(sources, SHEET_PICTURES)]
            scores = (
                measure(generator, features, protocols, sources, targets, batch_size, progress)
                if features is not None
                else {}
            )
    except torch.OutOfMemoryError as error:
        raise MemoryLacksError(
            f"no room for {batch_size} pictures at once", "use a smaller --batch-size, or --device cpu"
        ) from error
    layers = {
        subject.title(d): rho_layers(subject.generators[d]) for d in DIRECTIONS if d in subject.generators
    }
    shown = {
        "contact_sheet": (folder / "contact-sheet.png", contact_sheet(looked)),
        "attention": (folder / "attention.png", attention_sheet(_spread(looked, ATTENTION_PICTURES))),
        "rho": (folder / "rho.png", rho_chart(layers)),
    }
    files = {name: path for name, (path, image) in shown.items() if _keep(image, path)}
    found = Evaluation(
        direction=direction,
        domains=subject.domains,
        size=generator.config.image_size,
        sources=len(sources),
        targets=len(targets),
        features=None if features is None else features.name,
        features_sha256=None if features is None else features.sha256,
        scores=scores,
        rho={
            title: {label: _summary(rho) for label, rho in found.items()} for title, found in layers.items()
        },
        files=files | {"json": folder / "evaluation.json"},
    )
    with replacing(folder / "evaluation.json") as partial:
        text = json.dumps({**(about or {}), **found.to_json()}, indent=2, ensure_ascii=False)
        partial.write_text(text + "\n", "utf-8")
    return found


def evaluate_run(
    networks: UGATIT,
    pictures: Domains,
    folder: Path,
    step: int,
    *,
    domains: tuple[str, str] = ("A", "B"),
    generators: Sequence[Generator] | None = None,
    features: FeatureNetwork | None = None,
    batch_size: int = 4,
) -> dict[Direction, Evaluation]:
    """Evaluate both directions of a run in training, into `step-NNNNNNNN-a2b/` and `-b2a/` below a folder.

    Args:
        networks: as they are in training; left so.
        pictures: from `find_test_pictures`.
        folder: of all of a run's evaluations.
        step: steps taken so far.
        domains: names of A and B.
        generators: A → B, B → A, such as the moving average; None: those of `networks`.
        features: for KID; None: the pictures alone.
        batch_size: pictures at once.

    Raises:
        As `evaluate`.
    """
    subject = Subject.of_run(networks, domains, generators)
    return {
        direction: evaluate(
            subject,
            direction,
            pictures,
            folder / f"step-{step:08d}-{direction}",
            features=features,
            batch_size=batch_size,
            about={"step": step},
        )
        for direction in DIRECTIONS
    }


def check_evaluable(
    pictures: Domains, direction: Direction, protocols: Sequence[Protocol] = PROTOCOLS
) -> None:
    """Make sure that KID will be possible, before any work.

    Raises:
        DatasetError: there are too few pictures.
        EnvironmentLacksError: torch-fidelity is not installed.
    """
    counts = (len(pictures.a), len(pictures.b))
    sources, targets = counts if direction == "a2b" else counts[::-1]
    for other in (targets, sources):  # kid-paper compares with both
        check_counts(protocols, [sources, other], f"{sources} source and {targets} target pictures")
    load_library()


def find_test_pictures(source: Path, target: Path) -> Domains:
    """The pictures with which a run evaluates itself.

    Args:
        source: the training folder of A.
        target: of B.

    Returns:
        Those of `testA` and `testB` beside `trainA` and `trainB`; the training pictures where there are none.

    Raises:
        DatasetError: a folder has no picture.
    """
    a, b = find_test_folders(source, target)
    return find_domains(source, target) if a is None or b is None else find_domains(a, b)


def work(pictures: Domains, features: FeatureNetwork | None) -> int:
    """How many pictures `evaluate` will report as done."""
    return 0 if features is None else len(pictures.a) + len(pictures.b)


def write_loss_chart(run: Path, folder: Path) -> Path | None:
    """Write `losses.png` from a run's `metrics.jsonl`.

    Returns:
        Its path; None where the run has reported less than twice.

    Raises:
        DiskFullError, OutputError: it could not be written.
    """
    path = folder / "losses.png"
    return path if _keep(loss_chart(read_metrics(run)), path) else None


def _look(generator: Generator, judges: DomainDiscriminators | None, path: Path) -> Looked:
    source = square(open_rgb(path), generator.config.image_size)
    output = generator(to_network(to_tensor(source)[None], device_of(generator)))
    # Without a class activation map there are no logits either, and the map is none of attention.
    generator_map = None if output.logits is None else _array(output.attention)
    maps: list[Attention | None] = [None, None]
    if judges is not None:
        judged = [judge(output.image) for judge in (judges.local_, judges.global_)]
        maps = [None if one.logits is None else _array(one.attention) for one in judged]
    return Looked(source, to_pixels(output.image)[0], generator_map, *maps)


def _array(attention: Tensor) -> Attention:
    """The map of the one picture, float32 h×w."""
    return attention[0].float().cpu().numpy()


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly over all: the same for every model on the same pictures."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else list(items)


def _summary(rho: NDArray[np.float32]) -> dict[str, float]:
    values = {"mean": rho.mean(), "least": rho.min(), "median": np.median(rho), "greatest": rho.max()}
    return {name: round(float(value), 6) for name, value in values.items()}


def _keep(image: Image.Image | None, path: Path) -> bool:
    """Save a picture; without one, an older evaluation's must not stay."""
    if image is None:
        path.unlink(missing_ok=True)
        return False
    with replacing(path) as partial:
        image.save(partial)
    return True


@contextlib.contextmanager
def _evaluating(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluation mode, in which no power iteration is taken; then every module as it was."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
