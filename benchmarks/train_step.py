"""One training step of the published PyTorch program beside this package's, in one process.

The published step is written out below as `UGATIT.train` of that program has it, on this package's own
networks: the fakes are made twice, the discriminators' losses go back through the generators, the generators'
losses into the discriminators, each pass runs on its own, and Adam is PyTorch's default. It is spared what
the original adds a step to print its losses.

All take turns in blocks of steps, on the same pictures; medians of the blocks count. On a GPU, blocks are
timed by events. A way that fails is left out and told. With `--save`, the figures are kept after every round.
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

import psutil
import torch
from torch.nn import functional as F

from ugatit_batch import __version__
from ugatit_engines.devices import choose_device
from ugatit_engines.measure import describe_machine, keep_record
from ugatit_training.acceleration import check_device, float32_products, make_step
from ugatit_training.config import TrainConfig, paper_load_size
from ugatit_training.distributed import ALONE
from ugatit_training.draw import Draw
from ugatit_training.normalization import clip_rho
from ugatit_training.state import new_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from ugatit_training.discriminator import DiscriminatorOutput
    from ugatit_training.model import UGATIT

RESULTS = Path(__file__).parent / "results"
WAYS: dict[str, dict[str, Any]] = {
    "ours": {},
    "compiled": {"compile": True},
    "recorded": {"cuda_graphs": True},
    "contiguous": {"channels_last": False},
    "contiguous, recorded": {"channels_last": False, "cuda_graphs": True},
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


class Measurement:
    """All ways that still run, and what they have given.

    Args:
        options: of this program.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        if options.threads:
            torch.set_num_threads(options.threads)
        self.options = options
        self.device = choose_device(options.device)
        self.config = TrainConfig(
            light=not options.full,
            image_size=options.size,
            load_size=paper_load_size(options.size),
            channels=options.channels,
            discriminator_channels=options.channels,
            batch_size=options.batch_size,
        )
        if any(WAYS[way].get("compile") for way in options.ways):
            from torch._dynamo import config as dynamo

            # Beyond so many versions of one function PyTorch goes on without compiling; ways share them.
            dynamo.recompile_limit = 64
        generator = torch.Generator().manual_seed(0)
        shape = (2, options.batch_size, 3, options.size, options.size)
        a, b = torch.rand(shape, generator=generator) * 2 - 1
        self.draw = Draw(a.to(self.device), b.to(self.device))
        self.steps: dict[str, Callable[[Draw], Tensor]] = {}
        self.failed: dict[str, str] = {}
        self.rounds: list[dict[str, float]] = []

    def run(self) -> Iterator[None]:
        """Let all take turns until there are enough rounds or the time is up; yields after each round."""
        options = self.options
        names = ["published", *options.ways]
        for name in names:
            compiled = WAYS.get(name, {}).get("compile", False)
            if compiled and options.seconds is not None:
                if self._unmeasured():  # compiling may take the rest of the time
                    self._turn()
                    yield
                if self._time_is_up():
                    self._fail(name, "out of time before it was compiled")
                    continue
            self._prepare(name)
        if not self._time_is_up():
            self._round()  # does not count
        while self._unmeasured() or (len(self.rounds) < options.rounds and not self._time_is_up()):
            self._turn()
            yield

    def _unmeasured(self) -> bool:
        return any(all(name not in one for one in self.rounds) for name in self.steps)

    def _time_is_up(self) -> bool:
        seconds = self.options.seconds
        return seconds is not None and time.time() - psutil.Process().create_time() >= seconds

    def _prepare(self, name: str) -> None:
        """Build a way and take its first steps: compiling and recording stay out of the figures."""
        started = time.perf_counter()
        try:
            if name == "published":
                plain = dataclasses.replace(self.config, channels_last=False)
                self.steps[name] = PublishedStep(new_state(plain, self.device).networks, plain)
            else:
                asked = dataclasses.replace(self.config, **WAYS[name])
                check_device(asked, self.device, ALONE)
                self.steps[name] = make_step(new_state(asked, self.device), asked)
            with float32_products(self.config):
                for _ in range(self.options.warm_up):
                    self.steps[name](self.draw)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except Exception as error:  # noqa: BLE001 - the other ways go on
            self._fail(name, error)
            return
        seconds = time.perf_counter() - started
        words = f"{name}: {self.options.warm_up} steps in {seconds:.1f} s"
        print(words, file=sys.stderr, flush=True)

    def _fail(self, name: str, reason: Exception | str) -> None:
        self.steps.pop(name, None)
        words = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
        self.failed[name] = words[:2000]
        print(f"{name} is left out: {words}", file=sys.stderr, flush=True)
        if name == "published":
            raise RuntimeError("there is nothing to compare with")

    def _round(self) -> dict[str, float]:
        """Steps a second, by way."""
        rates: dict[str, float] = {}
        for name, take_step in list(self.steps.items()):
            try:
                with float32_products(self.config):
                    seconds = _seconds(take_step, self.draw, self.options.block, self.device)
            except Exception as error:  # noqa: BLE001 - the other ways go on
                self._fail(name, error)
            else:
                rates[name] = self.options.block / seconds
        return rates

    def _turn(self) -> None:
        rates = self._round()
        self.rounds.append(rates)
        words = "  ".join(f"{name} {1000 / rate:.4g} ms" for name, rate in rates.items())
        counted = f"round {len(self.rounds)} of {self.options.rounds}"
        print(f"{counted}: {words}", file=sys.stderr, flush=True)

    def figures(self) -> dict[str, object]:
        """All that is known so far, for JSON."""
        options, rounds = self.options, self.rounds
        measured = [way for way in options.ways if any(way in one for one in rounds)]
        return {
            "command": shlex.join(["python", "benchmarks/train_step.py", *sys.argv[1:]]),
            "to_published": {
                way: round(statistics.median(one[way] / one["published"] for one in rounds if way in one), 3)
                for way in measured
            },
            "milliseconds": {
                way: round(1000 / statistics.median(one[way] for one in rounds if way in one), 3)
                for way in ("published", *measured)
            },
            "failed": dict(self.failed),
            "steps": len(rounds) * options.block,
            "rounds": [{name: round(1000 / rate, 3) for name, rate in one.items()} for one in rounds],
            "size": options.size,
            "batch_size": options.batch_size,
            "channels": options.channels,
            "light": self.config.light,
            "machine": dataclasses.asdict(describe_machine(self.device)),
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
        f"the published program takes {milliseconds['published']} ms; times its speed: {ways or 'none'}."
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this program."""
    parser = argparse.ArgumentParser(description="Our training step beside the published program's.")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures, in pixels")
    parser.add_argument("--channels", type=int, default=64, help="width of all networks")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="full generators instead of light ones")
    parser.add_argument("--rounds", type=int, default=9, help="of which the median counts")
    parser.add_argument("--seconds", type=float, help="since the program began: no round is begun after them")
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


def main() -> int:
    """Measure, print, and keep the figures where that was asked for; returns 1 where a way failed."""
    options = parse()
    measurement = Measurement(options)

    def keep() -> str:
        figures = measurement.figures()
        machine = figures["machine"]
        assert isinstance(machine, dict)
        line = sentence(figures, machine)
        kept = keep_record(options.results, options.save, figures, line) if options.save else ""
        return f"{line}\n{kept}".strip()

    for _ in measurement.run():
        keep()
    print(keep())  # with what failed after the last round
    for name, reason in measurement.failed.items():
        print(f"{name} failed: {' '.join(reason.split())[:300]}")
    return int(bool(measurement.failed))


if __name__ == "__main__":
    sys.exit(main())
