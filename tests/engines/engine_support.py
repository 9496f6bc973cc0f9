"""Machines that are not here, and engines that nobody built."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

from ugatit_batch.bundle import DIRECTIONS
from ugatit_engines.engine_files import FoundEngine, write_engine
from ugatit_engines.engine_record import EngineRecord, TensorSpec
from ugatit_engines.machine import Gpu, Machine
from ugatit_engines.profiles import Profile, Span
from ugatit_engines.tensorrt_library import PORTABLE, name_capability

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.bundle import Bundle

PLAN = b"a plan, as far as this program can tell"
ADA = Gpu(0, "GeForce RTX 4090", (8, 9), 24 << 30)
TURING_CARD = Gpu(0, "GeForce RTX 2080", (7, 5), 8 << 30)
HOPPER = Gpu(0, "H100", (9, 0), 80 << 30)
BOTH: Any = {"tensorrt": "10.14.1", "tensorrt-rtx": "1.7.1"}
LINUX = Machine("linux", "x86_64", (ADA,), BOTH)
SQUARE = Profile(Span(1, 8, 32), Span.one(32), Span.one(32))
RANGE = Profile(Span(1, 2, 4), Span(16, 32, 64), Span(16, 32, 64))


def record(bundle: Bundle, **changes: Any) -> EngineRecord:
    """What `build-engine` would write of an engine for `LINUX`."""
    direction = changes.get("direction", next(d for d in DIRECTIONS if d in bundle.directions))
    profile = changes.get("profile", SQUARE)
    height, width = (-1 if s.least < s.most else s.most for s in (profile.height, profile.width))
    plain = EngineRecord(
        flavor="tensorrt-rtx",
        version="1.7.1",
        capabilities=tuple(map(name_capability, PORTABLE)),
        system="linux",
        architecture="x86_64",
        precision="fp16",
        profile=profile,
        inputs=(TensorSpec("pixels", "UINT8", (-1, height, width, 3)),),
        outputs=(
            TensorSpec("translated", "UINT8", (-1, height, width, 3)),
            TensorSpec("attention", "FLOAT", (-1, height // 4 if height > 0 else -1, -1)),
        ),
        plan_bytes=len(PLAN),
        plan_sha256=hashlib.sha256(PLAN).hexdigest(),
        model=bundle.name,
        direction=direction,
        model_sha256=bundle.digest(direction),
        generator=bundle.generator,
        seconds=2.5,
        program="0.1.0",
    )
    return dataclasses.replace(plain, **changes)


def place(folder: Path, bundle: Bundle, **changes: Any) -> FoundEngine:
    """Put an engine that only looks like one into a folder."""
    return write_engine(folder, record(bundle, **changes), PLAN)
