"""Building an engine from an ONNX file, the same way in both flavors of TensorRT.

Networks are strongly typed: the precision is what the graph says. The calls are those that both flavors, and
TensorRT 10 and 11, have in common; what one of them alone has is asked for by name.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ugatit_batch.errors import EngineBuildError
from ugatit_engines.engine_record import TensorSpec
from ugatit_engines.tensorrt_library import load_library, start, the_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_engines.profiles import Profile
    from ugatit_engines.tensorrt_library import Capability, Flavor


@dataclass(frozen=True)
class Built:
    """What came of a build."""

    plan: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: int
    """Of the network as it was parsed."""
    timings: bytes | None
    """What the library has measured, for the next build; None where it does not keep it."""


def build_plan(
    flavor: Flavor,
    onnx: Path,
    profile: Profile,
    *,
    capability: Capability | None = None,
    device: int | None = None,
    timings: bytes | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Built:
    """Build a plan.

    Args:
        flavor: of TensorRT.
        onnx: the graph; its one input is N×H×W×3.
        profile: what the engine shall take.
        capability: of `tensorrt-rtx`: of the one GPU to build for; None: for all from Ampere on.
        device: index of the GPU that `tensorrt` measures on.
        timings: of an earlier build of `tensorrt`.
        progress: is told phase, step and steps. What it raises ends the build.

    Raises:
        EngineLibraryError: the flavor is not installed.
        EngineBuildError: TensorRT refused; the message has its own words, and names the layer.
    """
    trt = load_library(flavor)
    logger = the_logger(trt)
    with _current(device):
        builder = start(trt.Builder, flavor, logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, flavor, network, logger, onnx)
    config = builder.create_builder_config()
    # It is on by default, and keeps ten bits of a product: not what fp32 was asked for.
    config.clear_flag(trt.BuilderFlag.TF32)
    shapes = builder.create_optimization_profile()
    name = network.get_input(0).name
    shapes.set_shape(name, *profile.shapes())
    config.add_optimization_profile(shapes)
    if capability is not None:
        _aim(trt, config, capability)
    cache = None
    if flavor == "tensorrt":
        # In TensorRT for RTX this would ask for a GPU.
        cache = config.create_timing_cache(timings or b"")
        if not config.set_timing_cache(cache, ignore_mismatch=False):
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, ignore_mismatch=False)
    monitor = _new_monitor(trt, progress)
    config.progress_monitor = monitor

    def build() -> Any:
        with _current(device):
            return builder.build_serialized_network(network, config)

    plan = _interruptible(build, monitor)
    if monitor.error is not None:
        raise monitor.error
    if plan is None:
        raise EngineBuildError(
            f"{onnx.name}: {flavor} could not build the engine: {logger.words()}",
            "try a smaller --batch or --size, or the other --flavor, and report this",
        )
    return Built(
        bytes(plan),
        tuple(_spec(network.get_input(index)) for index in range(network.num_inputs)),
        tuple(_spec(network.get_output(index)) for index in range(network.num_outputs)),
        network.num_layers,
        None if cache is None else bytes(cache.serialize()),
    )


def _parse(trt: Any, flavor: Flavor, network: Any, logger: Any, onnx: Path) -> None:
    parser = trt.OnnxParser(network, logger)
    # By its path: weights in files beside it are found from there.
    if parser.parse_from_file(str(onnx)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    first = errors[0] if errors else None
    if first is None:
        words = logger.words()
    else:
        layer = f"layer {first.node_name()} ({first.node_operator()}): " if first.node_name() else ""
        words = f"{layer}{first.desc()}"
    raise EngineBuildError(
        f"{onnx.name}: {flavor} cannot read the model's graph: {words}",
        "try the other --flavor or a newer version of it, and report this",
    )


def _aim(trt: Any, config: Any, capability: Capability) -> None:
    name = f"SM{capability[0]}{capability[1]}"
    known = getattr(trt.ComputeCapability, name, None)
    config.num_compute_capabilities = 1
    if known is None or not config.set_compute_capability(known, 0):
        raise EngineBuildError(
            f"TensorRT for RTX {trt.__version__} cannot build for compute capability "
            f"{capability[0]}.{capability[1]}",
            "use --flavor tensorrt on the machine with that GPU, or another version of the library",
        )


def _current(device: int | None) -> contextlib.AbstractContextManager[object]:
    """A GPU made the current one of this thread."""
    return contextlib.nullcontext() if device is None else torch.cuda.device(device)


def _spec(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.dtype.name, tuple(int(n) for n in tensor.shape))


def _interruptible(work: Callable[[], Any], monitor: Any) -> Any:
    """Do it in a thread: Ctrl-C then arrives while the library is at work, and stops it at its next step."""
    results: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that asked
            failures.append(error)

    thread = threading.Thread(target=run, name="build-engine", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
    except BaseException:
        monitor.cancelled = True
        thread.join()
        raise
    if failures:
        raise failures[0]
    return results[0]


def _new_monitor(trt: Any, progress: Callable[[str, int, int], None] | None) -> Any:
    """Hands progress on, and ends the build where `progress` raises or `cancelled` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self.error: BaseException | None = None
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, _parent: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return not self.cancelled and self.error is None

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def _tell(self, phase: str, step: int) -> None:
            if progress is None or self.cancelled or self.error is not None:
                return
            try:
                progress(phase, step, self.steps.get(phase, 0))
            except BaseException as error:  # noqa: BLE001 - it must not pass through the library; `build_plan` raises it
                self.error = error

    return Monitor()
