"""3×3 convolutions in float32 on a CPU by Winograd's algorithm F(4×4, 3×3): a quarter of the multiplications.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). Tiles of 6×6 features, of which
4×4 come out, and kernels are transformed; there a convolution is 36 products of matrices. The transforms'
coefficients cost two decimal digits of float32's seven: far below a level of 255, but too many for bfloat16.
What is lost is a share of the features' size, and a normalisation that follows makes much of little. So the
features of the first pixel are taken out of all of them before, and their convolution, a constant, is added
afterwards: a flat picture stays flat.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_OUT, _IN = 4, 6  # side of a tile
_TILES = 256  # at once: as many as make the products efficient, and still stay in the caches
_LEAST_CHANNELS = 96  # with fewer, the transforms cost more than the products save

# For the points 0, 1, -1, 2, -2 and infinity, in one dimension.
_KERNEL = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))  # in units of 1/24
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def use_winograd(network: nn.Module) -> None:
    """Replace the convolutions for which it pays: 3×3, stride 1, reflected margin of 1, wide, in float32.

    Args:
        network: changed in place; state dicts differ afterwards.
    """
    for name, child in network.named_children():
        use_winograd(child)
        if isinstance(child, nn.Conv2d) and _fits(child):
            setattr(network, name, WinogradConv(child.weight))


def _fits(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return (
        shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "reflect")
        and conv.bias is None
        and conv.weight.dtype == torch.float32
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
    )


class WinogradConv(nn.Module):
    """A 3×3 convolution of stride 1 with a reflected margin of 1.

    Args:
        weight: float32, outputs×inputs×3×3.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        outputs, inputs = weight.shape[:2]
        kernel = torch.tensor(_KERNEL, dtype=torch.float64) / 24
        transformed = torch.kron(kernel, kernel) @ weight.detach().double().permute(2, 3, 1, 0).reshape(9, -1)
        self.register_buffer("weight", transformed.float().view(_IN * _IN, inputs, outputs))
        self.register_buffer("total", weight.detach().double().sum((2, 3)).float())
        # Both dimensions in one product: rows are the 36 or 16 places in a tile.
        for name, rows in (("to_tiles", _INPUT), ("from_tiles", _OUTPUT)):
            one = torch.tensor(rows, dtype=torch.float32)
            self.register_buffer(name, torch.kron(one, one))

    weight: Tensor
    total: Tensor
    to_tiles: Tensor
    from_tiles: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """N×inputs×H×W, float32, in; N×outputs×H×W, channels_last, out; H and W above 1."""
        height, width = x.shape[2:]
        down, across = -(-height // _OUT), -(-width // _OUT)
        flat = x[:, :, :1, :1]
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect").sub_(flat)
        if (down * _OUT, across * _OUT) != (height, width):
            padded = F.pad(padded, (0, across * _OUT - width, 0, down * _OUT - height))
        pixels = padded.permute(0, 2, 3, 1).contiguous()
        result = x.new_empty(len(x), down * _OUT, across * _OUT, self.weight.shape[2])
        rows = max(1, _TILES // across)
        constants = flat[:, :, 0, 0] @ self.total.t()
        for source, target, constant in zip(pixels, result, constants, strict=True):
            for top in range(0, down, rows):
                part = slice(top * _OUT, (top + rows) * _OUT)
                self._convolve(source[top * _OUT : (top + rows) * _OUT + 2], target[part], constant)
        return result[:, :height, :width].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def _convolve(self, source: Tensor, target: Tensor, constant: Tensor) -> None:
        """Args: source (h+2)×(w+2)×inputs, dense; target h×w×outputs, which is written; h and w in tiles."""
        down, across, inputs = target.shape[0] // _OUT, target.shape[1] // _OUT, source.shape[2]
        row, column, _ = source.stride()
        tiles = source.as_strided(
            (_IN, _IN, down, across, inputs), (row, column, _OUT * row, _OUT * column, 1)
        ).reshape(_IN * _IN, -1)
        transformed = (self.to_tiles @ tiles).view(_IN * _IN, -1, inputs)
        products = torch.bmm(transformed, self.weight).view(_IN * _IN, -1)
        places = (self.from_tiles @ products).view(_OUT, _OUT, down, across, -1)
        torch.add(places.permute(2, 0, 3, 1, 4), constant, out=target.view(down, _OUT, across, _OUT, -1))
