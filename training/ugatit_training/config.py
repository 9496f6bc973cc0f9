"""What a training run is made of: one frozen dataclass, recipes and TOML.

Knows nothing of torch, so that a wrong option is told at once.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tomli_w

from ugatit_batch.bundle import GeneratorConfig, WorkingSize
from ugatit_batch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

RECIPES = ("paper", "light", "small", "ink")
ABLATIONS = tuple(
    f"ablation-{row}"
    for row in ("in", "ln", "adain", "gn", "no-cam", "no-generator-cam", "no-discriminator-cam")
)
"""Recipes for the rows of table 1."""
DIFF_AUGMENTATIONS = ("color", "translation", "cutout")


@dataclass(frozen=True)
class TrainConfig:
    """One training run (section 4.2 of the paper; the defaults are the paper's)."""

    steps: int = 1_000_000
    """Optimiser steps, each one draw of A and B."""
    batch_size: int = 1
    """Pictures of each domain a step."""
    image_size: int = 256
    """Side of the training crops in pixels."""
    load_size: int = 286
    """Side to which a picture is resized before the crop; `crop_scale` replaces it where it is set."""
    crop_scale: tuple[float, float] | None = None
    """Crops of this range of the shorter side, at the picture's own proportions, instead of `load_size`."""
    flip: float = 0.5
    """Probability that a picture is mirrored."""
    channels: int = 64
    """Width of the generators (ch)."""
    residual_blocks: int = 4
    """Blocks in each bottleneck of the generators (n_res)."""
    light: bool = False
    """γ and β from pooled features: a hundredth of the parameters at 256², and any picture size."""
    discriminator_channels: int = 64
    """Width of the discriminators."""
    norm: Literal["adalin", "adain", "in", "ln", "gn"] = "adalin"
    """Normalisation throughout the decoder; all but adalin are ablations (table 1)."""
    cam: Literal["both", "generator", "discriminator", "none"] = "both"
    """Which networks have a class activation map; all but both are ablations (table 1)."""
    variance: Literal["biased", "unbiased"] = "biased"
    """Variance in AdaLIN and LIN: the paper's, or unbiased as in the authors' PyTorch program."""
    learning_rate: float = 1e-4
    """Of Adam; constant for the first half of the run, then falling to 0 in a straight line."""
    weight_decay: float = 1e-4
    """Coupled (L2), on convolution and FC kernels alone."""
    adversarial_weight: float = 1.0
    """λ1, equations 4 and 8."""
    cycle_weight: float = 10.0
    """λ2, equation 5."""
    identity_weight: float = 10.0
    """λ3, equation 6."""
    cam_weight: float = 1000.0
    """λ4, equation 7."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast, with normalisation, spectral norm and losses in float32."""
    tf32: bool = True
    """On CUDA, float32 convolutions and products by way of TF32."""
    share_fakes: bool = True
    """Make the fakes once a step for discriminators and generators; changes no bit of the result."""
    join_passes: bool = True
    """Pictures of A and B through a generator, real ones and fakes through a discriminator, in one batch."""
    channels_last: bool = True
    """Memory format of networks and pictures."""
    fused_adam: bool = True
    """One kernel for all parameters of an optimiser."""
    compile: bool = False
    """torch.compile for all six networks: minutes at the start, faster steps."""
    cuda_graphs: bool = False
    """On CUDA, record the step once and replay it; one process only."""
    checkpoint_activations: bool = False
    """Compute the residual blocks' activations again in the backward pass: less memory, slower steps."""
    accumulate: int = 1
    """Batches of `batch_size` whose gradients are averaged for one optimiser step."""
    ema: float = 0.0
    """Decay of an exponential moving average of the generators, kept beside them; 0: none."""
    diff_augment: tuple[str, ...] = ()
    """DiffAugment of what the discriminators see: any of color, translation, cutout."""
    replay_pool: int = 0
    """Earlier fakes of each domain, of which half of those shown to the discriminators come; 0: none."""
    seed: int = 0
    """Of the weights, the order of the pictures and their augmentation."""
    workers: int = 2
    """Processes that read pictures; 0 reads them in the training process."""
    report_every: int = 50
    """Steps between two reports."""
    sample_every: int = 1000
    """Steps between two sample sheets."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: int = 3
    """How many checkpoints stay on disk."""
    evaluate_every: int = 0
    """Steps between two evaluations; 0: none."""
    working_mode: Literal["square", "native"] = "square"
    """Working size of the finished model: `native` for textures, which are right at any size."""
    working_side: int = 0
    """Side of the square, or the longest native side, in pixels; 0: the training size."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{name} = {value}: must be a finite number", f"set {name}")
        positive = (
            "steps batch_size image_size load_size channels residual_blocks discriminator_channels "
            "learning_rate accumulate report_every sample_every checkpoint_every keep_checkpoints"
        )
        for name in positive.split():
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be above 0", f"set {name}")
        not_negative = "weight_decay workers working_side seed replay_pool evaluate_every"
        for name in (*not_negative.split(), *_WEIGHTS):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)}: must not be below 0", f"set {name}")
        if self.seed >= _SEEDS:
            raise ConfigError(f"seed = {self.seed}: must be below 2**63", "use a smaller number")
        if self.image_size % 4 or self.image_size < 32:
            raise ConfigError(
                f"image_size = {self.image_size}: must divide by 4 and be 32 or more", "use 64, 128 or 256"
            )
        if self.load_size < self.image_size:
            raise ConfigError(
                f"load_size = {self.load_size} is smaller than image_size = {self.image_size}",
                f"the paper's ratio gives load_size = {paper_load_size(self.image_size)}",
            )
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ConfigError(
                f"crop_scale = {list(self.crop_scale)}: two numbers of 0 to 1", "use [0.5, 1.0]"
            )
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip = {self.flip}: a probability lies between 0 and 1", "use 0.5")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema = {self.ema}: a decay lies between 0 and 1", "use 0.999")
        if self.accumulate > 1 and not self.join_passes:
            raise ConfigError(
                f"accumulate = {self.accumulate}: its parts share the spectral norms of joined passes",
                "join_passes = true",
            )
        if self.replay_pool and self.replay_pool < self.batch_size * self.accumulate:
            raise ConfigError(
                f"replay_pool = {self.replay_pool} is smaller than the pictures of one step",
                f"use {self.batch_size * self.accumulate} or more",
            )
        unknown = [name for name in self.diff_augment if name not in DIFF_AUGMENTATIONS]
        if unknown:
            raise ConfigError(
                f"diff_augment = {list(self.diff_augment)}: unknown {', '.join(unknown)}",
                f"any of {', '.join(DIFF_AUGMENTATIONS)}",
            )
        if self.working_mode == "native" and not self.light:
            raise ConfigError(
                "working_mode = native: a full generator takes its training size only", "light = true"
            )
        try:
            self.generator()
            self.working_size()
        except ValueError as error:
            raise ConfigError(str(error), "correct the recipe") from error

    def generator(self) -> GeneratorConfig:
        """The shape of both generators."""
        return GeneratorConfig(
            channels=self.channels,
            residual_blocks=self.residual_blocks,
            light=self.light,
            image_size=self.image_size,
            variance=self.variance,
            norm=self.norm,
            attention=self.cam in ("both", "generator"),
        )

    def working_size(self) -> WorkingSize:
        """The working size of the finished model."""
        return WorkingSize(self.working_mode, self.working_side or self.image_size)


_SEEDS = 2**63
_WEIGHTS = ("adversarial_weight", "cycle_weight", "identity_weight", "cam_weight")


def paper_load_size(image_size: int) -> int:
    """The size before cropping in the paper's ratio, 286 to 256."""
    return round(image_size * 286 / 256)


def load_config(recipe: str, overrides: Mapping[str, Any]) -> TrainConfig:
    """A recipe by name or by path to a TOML file, with single values replaced.

    Raises:
        ConfigError: no such recipe, an unknown field, or a value of the wrong type or range.
    """
    if recipe in (*RECIPES, *ABLATIONS):
        text = resources.files("ugatit_training").joinpath(f"recipes/{recipe}.toml").read_text("utf-8")
    else:
        path = Path(recipe)
        if not path.is_file():
            raise ConfigError(
                f"--recipe {recipe}: neither a recipe nor a file",
                f"recipes: {', '.join((*RECIPES, *ABLATIONS))}; or the path of a TOML file",
            )
        text = path.read_text("utf-8", errors="replace")
    return parse_config(text, recipe, overrides)


def parse_config(text: str, source: str, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """A config from TOML.

    Args:
        text: TOML, one value a field of TrainConfig, no tables. `image_size` alone takes `load_size` along in
            the paper's ratio.
        source: where it comes from, for messages.
        overrides: replace the text's values; here, too, `image_size` alone takes `load_size` along.

    Raises:
        ConfigError: not TOML, an unknown field, or a value of the wrong type or range.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}", "correct that line") from error
    overrides = dict(overrides or {})
    resized = overrides if "image_size" in overrides else values | overrides
    values |= overrides
    hints = typing.get_type_hints(TrainConfig)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"{source}: unknown field {name!r}", f"fields: {', '.join(hints)}")
        checked[name] = _checked(value, hints[name], f"{source}: {name}")
    if "image_size" in resized and "load_size" not in resized:
        checked["load_size"] = paper_load_size(checked["image_size"])
    return TrainConfig(**checked)


def _checked(value: Any, wanted: Any, where: str) -> Any:
    """`value` when it is of the dataclass field's type; whole numbers pass for floats, lists for tuples."""
    if typing.get_origin(wanted) is Literal:
        if value not in typing.get_args(wanted):
            raise ConfigError(f"{where} = {value!r}", f"one of {', '.join(typing.get_args(wanted))}")
        return value
    if wanted == tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"{where} = {value!r}", 'a list of words, such as ["color", "cutout"]')
        return tuple(value)
    if isinstance(wanted, types.UnionType):  # only crop_scale: a pair, or left out
        if not isinstance(value, list | tuple) or [type(v) in (int, float) for v in value] != [True, True]:
            raise ConfigError(f"{where} = {value!r}", "two numbers, such as [0.5, 1.0]")
        return (float(value[0]), float(value[1]))
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:
        raise ConfigError(f"{where} = {value!r}", f"a value of type {wanted.__name__}")
    return value


def config_to_toml(config: TrainConfig) -> str:
    """The config as TOML that `parse_config` reads back to an equal one."""
    values = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    return tomli_w.dumps(values)
