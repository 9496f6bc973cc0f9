from __future__ import annotations

import io
import os
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ugatit_batch.errors import BundleError, UsageError
from ugatit_training.published import import_checkpoint

from .importing import read
from .published_reference import (
    PublishedGenerator,
    State,
    make,
    save_legacy,
    save_safetensors,
    save_zip,
    small_states,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def test_an_era_that_the_keys_contradict_is_refused(checkpoint: Path) -> None:
    torch.save(small_states(), checkpoint)
    with pytest.raises(UsageError, match=r"FC\.2\.weight"):
        read(checkpoint, "before-2019-08-07")
    with pytest.raises(UsageError, match="no state of the PyTorch program"):
        read(checkpoint, "before-2018")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot be a model's name"):
        import_checkpoint(checkpoint, name="../evil", domains=("a", "b"))


class Trap:
    """Makes a folder when it is unpickled by somebody careless."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle", "protocol 4", "safetensors"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "sprung"
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pt")
    content = small_states() | {"disLC": Trap(folder)}
    if form in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    else:
        path.write_bytes(pickle.dumps(Trap(folder), protocol=4 if form == "protocol 4" else 2))
    with pytest.raises(BundleError) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert "weights_only" not in str(caught.value)
    assert "nothing in it was run" in caught.value.hint
    if form in ("zip", "legacy"):
        assert "mkdir" in caught.value.message
    assert not folder.exists()
    if form == "plain pickle":
        pickle.loads(path.read_bytes())
        assert folder.exists(), "the trap must be one that works"


def test_objects_are_refused_by_their_name(checkpoint: Path) -> None:
    torch.save(make(ch=1), checkpoint)
    with pytest.raises(BundleError, match="PublishedGenerator, which is no tensor"):
        read(checkpoint)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"hello world\n" * 50,
        b"PK\x03\x04" + bytes(100),
        b"\x80\x02}q\x00.",
        bytes(range(256)) * 8,
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("save", "suffix"), [(save_zip, ".pt"), (save_legacy, ".pth"), (save_safetensors, ".safetensors")]
)
@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(
    tmp_path: Path, save: Callable[[Mapping[str, Any], Path], None], suffix: str, part: float
) -> None:
    path = tmp_path / f"model{suffix}"
    save(small_states(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(BundleError, match="model"):
        read(path)


def test_a_flipped_bit_is_found(checkpoint: Path) -> None:
    torch.save(small_states(), checkpoint)
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(BundleError, match="has another checksum"):
        read(checkpoint)


def test_compressed_archives_are_refused(checkpoint: Path) -> None:
    stored = io.BytesIO()
    torch.save(small_states(), stored)
    with (
        zipfile.ZipFile(stored) as source,
        zipfile.ZipFile(checkpoint, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(BundleError, match="compressed"):
        read(checkpoint)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(BundleError, match="cannot be read"):
            read(path)


def without(state: State, *keys: str) -> State:
    return {k: t for k, t in state.items() if k not in keys}


UNFIT: dict[str, tuple[Callable[[dict[str, State]], object], str]] = {
    "a list": (lambda s: list(s["genA2B"].values()), "a list instead of a dict"),
    "a tensor": (lambda s: torch.zeros(3), "a Tensor instead of a dict"),
    "an empty dict": (lambda s: {}, "no generator, only nothing"),
    "an empty network": (lambda s: s | {"genA2B": {}}, "genA2B is a dict, not a tensor"),
    "another network": (
        lambda s: {"conv1.weight": torch.zeros(2), "fc.bias": torch.zeros(2)},
        "missing .* and 40 more; unexpected conv1.weight, fc.bias$",
    ),
    "wrapped in state_dict": (lambda s: {"state_dict": s["genA2B"]}, r"unexpected state_dict\.DownBlock"),
    "discriminators only": (lambda s: {"disGA": s["disGA"], "disLA": s["disLA"]}, "only disGA, disLA"),
    "half a generator": (
        lambda s: {"genA2B": {k: t for k, t in s["genA2B"].items() if k < "UpBlock2"}},
        r"genA2B: .* missing .*UpBlock2",
    ),
    "a key too few": (
        lambda s: s | {"genB2A": without(s["genB2A"], "gmp_fc.weight")},
        r"genB2A: .*missing gmp_fc\.weight",
    ),
    "a hole between blocks": (
        lambda s: {k: t for k, t in s["genA2B"].items() if not k.startswith("UpBlock1_2.")},
        r"missing UpBlock1_2.*unexpected DownBlock\.15.*UpBlock1_4",
    ),
    "a key too many": (
        lambda s: s | {"genA2B": s["genA2B"] | {"extra.weight": torch.zeros(2)}},
        r"genA2B: .*unexpected extra\.weight",
    ),
    "an unknown network": (lambda s: s | {"genC": s["genA2B"]}, r"unexpected genC\."),
    "a stray tensor": (lambda s: s | {"step": torch.zeros(())}, "unexpected step"),
    "a number": (lambda s: s | {"step": 3}, "step is a int, not a tensor"),
    "None for a tensor": (lambda s: s["genA2B"] | {"FC.0.weight": None}, "FC.0.weight is a NoneType"),
    "text for a tensor": (
        lambda s: {"genA2B": s["genA2B"] | {"FC.0.weight": "x"}},
        "genA2B.FC.0.weight is a str",
    ),
    "numbers for keys": (lambda s: dict(enumerate(s["genA2B"].values())), "unexpected key 0"),
    "whole numbers": (
        lambda s: s["genA2B"] | {"FC.0.weight": torch.zeros(8, 8, dtype=torch.int64)},
        "FC.0.weight is not a plain tensor",
    ),
    "a sparse tensor": (
        lambda s: s["genA2B"] | {"FC.0.weight": torch.eye(8).to_sparse()},
        "FC.0.weight is not a plain tensor",
    ),
    "a tensor without storage": (
        lambda s: s["genA2B"] | {"FC.0.weight": torch.empty(8, 8, device="meta")},
        "FC.0.weight is not a plain tensor",
    ),
    "the same key twice": (
        lambda s: s["genA2B"] | {f"module.{k}": t for k, t in s["genA2B"].items()},
        "DownBlock.1.weight of genA2B twice",
    ),
    "a picture with four channels": (
        lambda s: s["genA2B"] | {"DownBlock.1.weight": torch.zeros(2, 4, 7, 7)},
        r"DownBlock\.1\.weight has the shape \(2, 4, 7, 7\) instead of \(2, 3, 7, 7\)",
    ),
    "sizes that disagree": (
        lambda s: s["genA2B"] | {"DownBlock.5.weight": torch.zeros(6, 2, 3, 3)},
        r"\(6, 2, 3, 3\) instead of \(4, 2, 3, 3\)",
    ),
    "a flat rho": (
        lambda s: s["genA2B"] | {"UpBlock2.3.rho": torch.zeros(4)},
        r"\(4,\) instead of \(1, 4, 1, 1\)",
    ),
    "a scalar": (lambda s: s["genA2B"] | {"DownBlock.1.weight": torch.zeros(())}, r"shape|shapes"),
    "nothing in a tensor": (
        lambda s: s["genA2B"] | {"DownBlock.1.weight": torch.zeros(0, 3, 7, 7)},
        "channels must be",
    ),
    "no square picture": (
        lambda s: s["genA2B"] | {"FC.0.weight": torch.zeros(8, 8 * 250)},
        r"FC\.0\.weight has the shape \(8, 2000\) instead of \(8, 1800\)",
    ),
    "too small a picture": (
        lambda s: s["genA2B"] | {"FC.0.weight": torch.zeros(8, 8 * 4)},
        "image_size must divide by 4 and be 16 or more, not 8",
    ),
    "not a number": (
        lambda s: s["genA2B"] | {"conv1x1.bias": torch.full((8,), float("nan"))},
        r"conv1x1\.bias holds values that are not finite",
    ),
    "infinity in half precision": (
        lambda s: s["genA2B"] | {"FC.2.weight": torch.full((8, 8), float("inf"), dtype=torch.bfloat16)},
        r"FC\.2\.weight holds values that are not finite",
    ),
    "generators of two widths": (
        lambda s: s | {"genB2A": make(ch=3).state_dict()},
        "its generators differ: channels 2 and 3$",
    ),
    "light and full": (
        lambda s: s | {"genB2A": make(ch=2, light=False).state_dict()},
        "light True and False, image_size 256 and 64",
    ),
    "a discriminator with a key too few": (
        lambda s: s | {"disGB": without(s["disGB"], "conv.weight_u")},
        r"disGB: .*missing conv\.weight_u",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_is_not_a_ugatit_checkpoint_is_refused_with_its_reason(checkpoint: Path, case: str) -> None:
    change, message = UNFIT[case]
    torch.save(change(small_states()), checkpoint)
    with pytest.raises(BundleError) as caught:
        read(checkpoint)
    assert str(checkpoint) in caught.value.message
    assert caught.value.hint
    with pytest.raises(BundleError, match=message):
        raise BundleError(caught.value.message)


def test_claims_of_huge_tensors_cost_no_memory(checkpoint: Path) -> None:
    # 400 bytes a tensor on disk, terabytes once spread out, and all shapes agree.
    with torch.device("meta"):
        shapes = {k: t.shape for k, t in PublishedGenerator(100_000, light=True).state_dict().items()}
    torch.save({k: torch.zeros(1).expand(shape) for k, shape in shapes.items()}, checkpoint)
    assert checkpoint.stat().st_size < 100_000
    with pytest.raises(BundleError, match="claim more room than the file has"):
        read(checkpoint)


def test_claims_of_huge_storages_are_refused(tmp_path: Path) -> None:
    header = b'{"genA2B.x":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(BundleError, match="damaged"):
        read(path)
    path.write_bytes((1 << 60).to_bytes(8, "little") + header)
    with pytest.raises(BundleError, match="damaged"):
        read(path)
