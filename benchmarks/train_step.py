"""One training step of the published PyTorch program beside this package's, in one process.

The published step is written out below as `UGATIT.train` of that program has it, on this package's own
networks: the fakes are made twice, the discriminators' losses go back through the generators, the generators'
losses into the discriminators, each pass runs on its own, and Adam is PyTorch's default. It is spared what
the original adds a step to print its losses.

All take turns in blocks of steps, on the same pictures; medians of the blocks count. On a GPU, blocks are
timed by events.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from ugatit_batch import __version__
from ugatit_engines.devices import choose_device
from ugatit_engines.measure import alternate, describe_machine, keep_record
from ugatit_training.acceleration import check_device, float32_products, make_step
from ugatit_training.config import TrainConfig, paper_load_size
from ugatit_training.distributed import ALONE
from ugatit_training.draw import Draw
from ugatit_training.normalization import clip_rho
from ugatit_training.state import new_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ugatit_training.discriminator import DiscriminatorOutput
    from ugatit_training.model import UGATIT

RESULTS = Path(__file__).parent / "results"
WAYS: dict[str, dict[str, Any]] = {
    "ours": {},
    "compiled": {"compile": True},
    "recorded": {"cuda_graphs": True},
    "compiled and recorded": {"compile": True, "cuda_graphs": True},
    "bf16": {"precision": "bf16"},
    "bf16, recorded": {"precision": "bf16", "cuda_graphs": True},
    "bf16, compiled and recorded": {"precision": "bf16", "compile": True, "cuda_graphs": True},
}
"""What this package's step can be asked for, beside its defaults."""


class PublishedStep:
    """The published program's step.

    Args:
        networks: on their device, in training mode.
        config: the weights of the losses and the rate; what else it says is not that program's.
    """

    def __init__(self, networks: UGATIT, config: TrainConfig) -> None:
        self.networks, self.config = networks, config
        betas = (0.5, 0.999)
        self.for_generators, self.for_discriminators = (
            torch.optim.Adam(
                itertools.chain(*(network.parameters() for network in part)),
                lr=config.learning_rate,
                betas=betas,
                weight_decay=config.weight_decay,
            )
            for part in (networks.generators(), networks.discriminators())
        )

    def __call__(self, draw: Draw) -> Tensor:
        """Take one step; returns the two sums of losses."""
        config, networks, a, b = self.config, self.networks, draw.a, draw.b
        judges = ((networks.a.global_, networks.a.local_), (networks.b.global_, networks.b.local_))

        self.for_discriminators.zero_grad()
        fakes = networks.b2a(b).image, networks.a2b(a).image
        of_discriminators = torch.zeros((), device=a.device)
        for pair, real, fake in zip(judges, (a, b), fakes, strict=True):
            for on_real, on_fake in zip([d(real) for d in pair], [d(fake) for d in pair], strict=True):
                of_discriminators = of_discriminators + _far(on_real, 1.0) + _far(on_fake, 0.0)
        (config.adversarial_weight * of_discriminators).backward()  # type: ignore[no-untyped-call]
        self.for_discriminators.step()

        self.for_generators.zero_grad()
        to_b, to_a = networks.a2b(a), networks.b2a(b)
        back_a, back_b = networks.b2a(to_b.image).image, networks.a2b(to_a.image).image
        same_a, same_b = networks.b2a(a), networks.a2b(b)
        adversarial = torch.zeros((), device=a.device)
        for pair, fake in zip(judges, (to_a.image, to_b.image), strict=True):
            for judge in pair:
                adversarial = adversarial + _far(judge(fake), 1.0)
        of_generators = (
            config.adversarial_weight * adversarial
            + config.cycle_weight * (F.l1_loss(back_a, a) + F.l1_loss(back_b, b))
            + config.identity_weight * (F.l1_loss(same_a.image, a) + F.l1_loss(same_b.image, b))
            + config.cam_weight * (_cross(to_b.logits, same_b.logits) + _cross(to_a.logits, same_a.logits))
        )
        of_generators.backward()  # type: ignore[no-untyped-call]
        self.for_generators.step()
        for generator in networks.generators():
            clip_rho(generator)
        return torch.stack([of_discriminators.detach(), of_generators.detach()])


def _far(output: DiscriminatorOutput, label: float) -> Tensor:
    """LSGAN of patches and CAM logits."""
    assert output.logits is not None
    return (output.patches - label).square().mean() + (output.logits - label).square().mean()


def _cross(source: Tensor | None, target: Tensor | None) -> Tensor:
    assert source is not None
    assert target is not None
    return F.binary_cross_entropy_with_logits(
        source, torch.ones_like(source)
    ) + F.binary_cross_entropy_with_logits(target, torch.zeros_like(target))


def measure(options: argparse.Namespace) -> dict[str, object]:
    """All figures of one call of this program, for JSON."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    config = TrainConfig(
        light=not options.full,
        image_size=options.size,
        load_size=paper_load_size(options.size),
        channels=options.channels,
        discriminator_channels=options.channels,
        batch_size=options.batch_size,
    )
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, options.batch_size, 3, options.size, options.size, generator=generator) * 2 - 1
    draw = Draw(a.to(device), b.to(device))

    plain = dataclasses.replace(config, channels_last=False)
    steps: dict[str, Callable[[Draw], Tensor]] = {
        "published": PublishedStep(new_state(plain, device).networks, plain)
    }
    for way in options.ways:
        asked = dataclasses.replace(config, **WAYS[way])
        check_device(asked, device, ALONE)
        steps[way] = make_step(new_state(asked, device), asked)

    def block(take_step: Callable[[Draw], Tensor]) -> Callable[[], float]:
        def rate() -> float:
            with float32_products(config):
                seconds = _seconds(take_step, draw, options.block, device)
            return float(options.block / seconds)

        return rate

    for name, take_step in steps.items():  # compiling and recording stay out of the figures
        started = time.perf_counter()
        for _ in range(options.warm_up):
            take_step(draw)
        print(f"{name}: {options.warm_up} steps in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    rounds = []
    for rates in alternate({name: block(step) for name, step in steps.items()}, options.rounds):
        rounds.append(rates)
        words = "  ".join(f"{name} {1000 / rate:.4g} ms" for name, rate in rates.items())
        print(f"round {len(rounds)} of {options.rounds}: {words}", file=sys.stderr, flush=True)
    return {
        "command": shlex.join(["python", "benchmarks/train_step.py", *sys.argv[1:]]),
        "to_published": {
            way: round(statistics.median(one[way] / one["published"] for one in rounds), 3)
            for way in options.ways
        },
        "milliseconds": {
            name: round(1000 / statistics.median(one[name] for one in rounds), 3) for name in steps
        },
        "steps": options.rounds * options.block,
        "rounds": [{name: round(1000 / rate, 3) for name, rate in one.items()} for one in rounds],
        "size": options.size,
        "batch_size": options.batch_size,
        "channels": options.channels,
        "light": config.light,
        "machine": dataclasses.asdict(describe_machine(device)),
        "version": __version__,
    }


def _seconds(take_step: Callable[[Draw], Tensor], draw: Draw, count: int, device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(count):
            take_step(draw)
        return time.perf_counter() - started
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    before.record()
    for _ in range(count):
        take_step(draw)
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after)) / 1000


def sentence(figures: dict[str, object], machine: dict[str, object]) -> str:
    """The figures in one line for people."""
    ratios, milliseconds = figures["to_published"], figures["milliseconds"]
    assert isinstance(ratios, dict)
    assert isinstance(milliseconds, dict)
    where = machine["gpu"] or f"{machine['cpu']} ({machine['threads']} threads)"
    kind = f"{'light' if figures['light'] else 'full'}, width {figures['channels']}, {figures['size']}²"
    ways = ", ".join(f"{way} {ratio} ({milliseconds[way]} ms)" for way, ratio in ratios.items())
    return (
        f"On {where}, PyTorch {machine['torch']}: a training step ({kind}, batch {figures['batch_size']}) of "
        f"the published program takes {milliseconds['published']} ms; times its speed: {ways}."
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this program."""
    parser = argparse.ArgumentParser(description="Our training step beside the published program's.")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures, in pixels")
    parser.add_argument("--channels", type=int, default=64, help="width of all networks")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="full generators instead of light ones")
    parser.add_argument("--rounds", type=int, default=9, help="of which the median counts")
    parser.add_argument("--block", type=int, default=1, help="steps in a round, each way")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before, each way; 4 to record")
    parser.add_argument("--ways", default="ours", help=f"with ; between: {'; '.join(WAYS)}; all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--save", metavar="NAME", help="keep the figures in NAME.json")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where --save keeps them")
    options = parser.parse_args(arguments)
    ways = list(WAYS) if options.ways == "all" else [way.strip() for way in options.ways.split(";")]
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        parser.error(f"--ways {'; '.join(unknown)}: unknown; there are {'; '.join(WAYS)}")
    options.ways = ways
    return options


def main() -> None:
    """Measure, print, and keep the figures where that was asked for."""
    options = parse()
    figures = measure(options)
    machine = figures["machine"]
    assert isinstance(machine, dict)
    line = sentence(figures, machine)
    print(line)
    if options.save:
        print(keep_record(options.results, options.save, figures, line))


if __name__ == "__main__":
    main()
