"""The PyTorch engine: a bundle's generator as a Translator, on a CPU or an NVIDIA GPU."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ugatit_batch.errors import BundleError, MemoryLacksError, UgatitBatchError, UsageError
from ugatit_batch.frames import SizeRule, Translated
from ugatit_engines.deploy_form import DeployGenerator
from ugatit_engines.devices import DTYPES, bytes_per_pixel, free_memory
from ugatit_engines.fused_norms import fuse_norms
from ugatit_engines.smoothing import StyleAverage
from ugatit_engines.winograd import use_winograd
from ugatit_training.generator import Generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.frames import Batch
    from ugatit_engines.devices import Precision
    from ugatit_engines.smoothing import AveragedPart

_SHARE = 0.8  # of the free memory; the rest is for everything else
_INDEXED = 2**31 - 1
_GPU_BATCH = 32  # more makes no GPU faster


def load_generator(bundle: Bundle, direction: Direction) -> Generator:
    """A bundle's generator in float32 on the CPU, in evaluation mode.

    Raises:
        UsageError: the model has no such direction.
        BundleError: the weights are damaged or of another shape than the manifest says.
    """
    weights: Mapping[str, NDArray[np.floating]] = bundle.weights(direction)
    with torch.device("meta"):
        generator = Generator(bundle.generator)
    tensors = {name: torch.from_numpy(array).float() for name, array in weights.items()}
    try:
        generator.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise BundleError(
            f"{bundle.path}: damaged model: the weights do not fit bundle.json: {first[0].strip()}",
            "import or train the model again, or copy it anew",
        ) from error
    return generator.eval().requires_grad_(False)


@dataclass
class _InFlight:
    """A batch whose results are on their way to the host."""

    tensors: tuple[Tensor, ...]
    """Pixels, attention, and the averaged style where it was asked for."""
    ready: torch.cuda.Event | None

    def wait(self) -> Translated:
        if self.ready is not None:
            self.ready.synchronize()
        return Translated(*(tensor.numpy() for tensor in self.tensors))


class TorchTranslator:
    """A generator that runs in PyTorch, in its deploy form and channels_last.

    On a CPU with fused norms, and in float32 with Winograd's convolutions.

    Args:
        bundle: the model.
        direction: which of its generators.
        device: from `choose_device`.
        precision: of weights and activations; normalisation is in float32 whatever it is.
        batch_size: None: 1 on a CPU, where more is slower, and as many as fit on a GPU.

    Raises:
        UsageError, BundleError: as `load_generator`.
        MemoryLacksError: the model itself does not fit.
    """

    def __init__(
        self,
        bundle: Bundle,
        direction: Direction,
        device: torch.device,
        precision: Precision = "fp32",
        batch_size: int | None = None,
    ) -> None:
        self.device, self.precision = device, precision
        self._dtype = DTYPES[precision]
        generator = DeployGenerator(load_generator(bundle, direction))
        for module in generator.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.to(self._dtype)
        if device.type == "cpu":
            fuse_norms(generator)
            if precision == "fp32":
                use_winograd(generator)
        self._model = bundle.name
        try:
            self._generator = generator.to(device).to(memory_format=torch.channels_last)
        except torch.OutOfMemoryError as error:
            raise MemoryLacksError(
                f"{bundle.name}: the model does not fit into the memory of {device}", "use --device cpu"
            ) from error
        self._bytes_per_pixel = bytes_per_pixel(bundle.generator, precision, device.type)
        self.batch_size = batch_size or (1 if device.type == "cpu" else _GPU_BATCH)
        # On a GPU the first out of memory lowers this; on a CPU nothing can be caught, so it is an estimate.
        self._most_pixels = max(1, int(free_memory(device) * _SHARE / self._bytes_per_pixel))
        # CUDA's reflection padding counts elements in 32 bits: so many pixels of the widest, padded map.
        self._most_indexed = _INDEXED // (bundle.generator.channels + 1)
        side = bundle.generator.image_size
        self.size_rule = SizeRule(
            fixed=None if bundle.generator.light else (side, side),
            max_pixels=self._most_pixels if device.type == "cpu" else self._most_indexed,
        )
        # Batches taken before the first is given back, so that copies overlap the work.
        self.ahead = 1 if device.type == "cuda" else 0
        if device.type == "cuda":
            self._to_device, self._to_host = _stream(device), _stream(device)

    def describe(self) -> str:
        """For people: device, precision, engine."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        rounded = self.device.type == "cpu" and self.precision == "bf16"
        choice = " (--precision fp32 is slower and closer)" if rounded else ""
        return f"{name}, {self.precision}{choice}, PyTorch {torch.__version__}"

    def check_smooth(self) -> None:
        """Do nothing where pictures have a style of their own, which can be averaged along a film.

        Raises:
            UsageError: the model has one style for all pictures.
        """
        if self._generator.style is None:
            raise UsageError(f"--smooth: model {self._model} has no adaptive style", "leave --smooth out")

    def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
        """See `Translator`. On a GPU the copies of one batch overlap the work on the next.

        Where batches ask for averaging, the style is averaged along all pictures of one call.

        Raises:
            MemoryLacksError: not even one picture of this size fits.
            UsageError: averaging is asked of a model without adaptive style.
        """
        in_flight: deque[_InFlight] = deque()
        average = StyleAverage()
        for batch in batches:
            try:
                in_flight.append(self._submit(batch, average))
            except UgatitBatchError:
                while in_flight:
                    yield in_flight.popleft().wait()
                raise
            if len(in_flight) > self.ahead:
                yield in_flight.popleft().wait()
        while in_flight:
            yield in_flight.popleft().wait()

    @torch.inference_mode()
    def _submit(self, batch: Batch, average: StyleAverage) -> _InFlight:
        pixels, averaging = batch.pixels, batch.averaging
        count, height, width = pixels.shape[:3]
        if averaging is not None:
            self.check_smooth()
            average.begin(averaging, count)
        parts: list[tuple[Tensor, ...]] = []
        start = 0
        while start < count:
            at_once = max(1, min(self._most_pixels, self._most_indexed) // (height * width))
            end = min(start + at_once, count)
            part = None if averaging is None else average.part(averaging, start, end)
            try:
                parts.append(self._forward(torch.from_numpy(pixels[start:end]), part))
            except torch.OutOfMemoryError as error:
                taken = end - start
                if taken == 1:
                    raise MemoryLacksError(
                        f"{width}×{height}: too large for the memory of {self.device}",
                        "use a smaller --size, or --device cpu",
                    ) from error
                self._most_pixels = max(1, taken // 2) * height * width
                torch.cuda.empty_cache()
                continue
            if part is not None:
                average.advance(part)
            start = end
        return self._collect(parts)

    def _forward(self, pixels: Tensor, part: AveragedPart | None) -> tuple[Tensor, ...]:
        """uint8 N×H×W×3 on the host to uint8 N×H×W×3, float32 N×h×w and perhaps N×K on the device."""
        if self.device.type == "cuda":
            # TensorFloat-32 keeps ten bits of a product: not what fp32 was asked for. Another engine of this
            # process may have set it otherwise.
            torch.backends.cudnn.allow_tf32 = self.precision != "fp32"
            with torch.cuda.stream(self._to_device):
                moved = pixels.pin_memory().to(self.device, non_blocking=True)
            work = torch.cuda.current_stream(self.device)
            work.wait_stream(self._to_device)
            moved.record_stream(work)
            pixels = moved
        # N×H×W×3 seen as N×3×H×W is channels_last already.
        x = pixels.permute(0, 3, 1, 2).to(self._dtype).div_(127.5).sub_(1.0)
        output, attention = self._generator(x, part)
        image = output.float().add_(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        image = image.permute(0, 2, 3, 1).contiguous()
        return (image, attention) if part is None else (image, attention, part.style)

    def _collect(self, parts: list[tuple[Tensor, ...]]) -> _InFlight:
        joined = parts[0]
        if len(parts) > 1:
            joined = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
        if self.device.type == "cpu":
            return _InFlight(joined, None)
        with torch.cuda.stream(self._to_host):
            self._to_host.wait_stream(torch.cuda.current_stream(self.device))
            host = tuple(
                torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
                for t in joined
            )
            for tensor in joined:
                tensor.record_stream(self._to_host)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record(self._to_host)
        return _InFlight(host, ready)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
