"""Layers that move elements: reshaping, padding, pixels to channels and back, resizing."""

from __future__ import annotations

from collections.abc import Sequence

from cnncc.errors import GraphError
from cnncc.nn.conv import Size, spread
from cnncc.nn.module import Module
from cnncc.nn.tensor import Tensor


class Identity(Module):
    """torch.nn.Identity; takes any arguments."""

    def __init__(self, *arguments: object, **options: object):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """x."""
        return x


class Flatten(Module):
    """torch.nn.Flatten."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        """Merge the axes from start_dim to end_dim."""
        return x.flatten(self.start_dim, self.end_dim)


class Unflatten(Module):
    """torch.nn.Unflatten: one axis becomes several."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]):
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x: Tensor) -> Tensor:
        """Split axis `dim`; one size may be -1."""
        at = self.dim % x.ndim
        sizes = list(self.unflattened_size)
        if -1 in sizes:
            rest = 1
            for s in sizes:
                rest *= s if s != -1 else 1
            sizes[sizes.index(-1)] = int(x.shape[at]) // rest
        return x.reshape((*x.shape[:at], *sizes, *x.shape[at + 1 :]))


class PixelShuffle(Module):
    """torch.nn.PixelShuffle: [N, C r^2, H, W] --> [N, C, H r, W r]."""

    def __init__(self, upscale_factor: int):
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, x: Tensor) -> Tensor:
        """Channels become pixels."""
        r = self.upscale_factor
        n, c, h, w = x.shape
        if int(c) % (r * r):
            raise GraphError(f"PixelShuffle: {r}^2 must divide the channels, got {c}")
        out = int(c) // (r * r)
        split = x.reshape((n, out, r, r, h, w)).permute(0, 1, 4, 2, 5, 3)
        return split.reshape((n, out, h * r, w * r))


class PixelUnshuffle(Module):
    """torch.nn.PixelUnshuffle: [N, C, H r, W r] --> [N, C r^2, H, W]."""

    def __init__(self, downscale_factor: int):
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, x: Tensor) -> Tensor:
        """Pixels become channels."""
        r = self.downscale_factor
        n, c, h, w = x.shape
        if int(h) % r or int(w) % r:
            raise GraphError(f"PixelUnshuffle: {r} must divide the sides, got {h}x{w}")
        split = x.reshape((n, c, int(h) // r, r, int(w) // r, r)).permute(0, 1, 3, 5, 2, 4)
        return split.reshape((n, c * r * r, int(h) // r, int(w) // r))


class ChannelShuffle(Module):
    """torch.nn.ChannelShuffle: channels of the groups take turns."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """[N, g c, ...] --> [N, c g, ...]."""
        n, c, *space = x.shape
        if int(c) % self.groups:
            raise GraphError(f"ChannelShuffle: groups must divide the channels, got {self.groups} and {c}")
        split = x.reshape((n, self.groups, int(c) // self.groups, *space))
        return split.transpose(1, 2).reshape((n, c, *space))


_RANKS = {"nearest": 0, "nearest-exact": 0, "linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}  # 0: any


class Upsample(Module):
    """torch.nn.Upsample by `size` or `scale_factor`; nearest, nearest-exact, linear, bilinear, trilinear or bicubic."""

    def __init__(
        self,
        size: Size | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ):
        super().__init__()
        if (size is None) == (scale_factor is None):
            raise GraphError("Upsample: give either size or scale_factor")
        if mode not in _RANKS:
            raise GraphError(f"Upsample: mode must be one of {', '.join(_RANKS)}, got {mode!r}")
        self._rank = _RANKS[mode]
        self.size, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        """Resize the spatial axes."""
        rank = x.ndim - 2
        if self._rank not in (0, rank):
            raise GraphError(f"Upsample: mode {self.mode} takes inputs of rank {self._rank + 2}, got {x.ndim}")
        scales: tuple[float, ...] = ()
        if self.size is not None:
            size = spread(self.size, rank, "size")
        else:
            given = self.scale_factor
            scales = tuple(given) if isinstance(given, Sequence) else (float(given or 0),) * rank
            size = tuple(int(d * f) for d, f in zip(x.shape[2:], scales, strict=True))
        options: dict[str, str] = {"coordinates": "align_corners" if self.align_corners else "half_pixel"}
        if self.mode == "nearest":
            options = {"coordinates": "asymmetric", "nearest": "floor"}
        elif self.mode == "nearest-exact":
            options = {"coordinates": "half_pixel", "nearest": "round_prefer_ceil"}
        kind = "nearest" if not self._rank else "cubic" if self.mode == "bicubic" else "linear"
        return x._op("resize", x, size=size, mode=kind, scales=() if self.align_corners else scales, **options)

    def extra_repr(self) -> str:
        how = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        return f"{how}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """torch.nn.UpsamplingNearest2d."""

    def __init__(self, size: Size | None = None, scale_factor: float | Sequence[float] | None = None):
        super().__init__(size, scale_factor)


class UpsamplingBilinear2d(Upsample):
    """torch.nn.UpsamplingBilinear2d, which aligns corners."""

    def __init__(self, size: Size | None = None, scale_factor: float | Sequence[float] | None = None):
        super().__init__(size, scale_factor, "bilinear", True)


class _Pad(Module):
    rank = 2
    mode = "constant"
    value = 0.0

    def __init__(self, padding: Size):
        super().__init__()
        self.padding = spread(padding, 2 * self.rank, "padding")

    def forward(self, x: Tensor) -> Tensor:
        """Pad the last axes; `padding` begins with the last one: (left, right, top, bottom, ...)."""
        lead = (0,) * (x.ndim - self.rank)
        begin, end = self.padding[::2][::-1], self.padding[1::2][::-1]
        return x._op("pad", x, pads=(*lead, *begin, *lead, *end), mode=self.mode, value=self.value)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: Size, value: float):
        super().__init__(padding)
        self.value = float(value)


def _padding(base: type[_Pad], name: str, rank: int, mode: str) -> type[_Pad]:
    fields = {"rank": rank, "mode": mode, "__doc__": f"torch.nn.{name}.", "__module__": __name__}
    return type(name, (base,), fields)


ConstantPad1d, ConstantPad2d, ConstantPad3d = (
    _padding(_ConstantPad, f"ConstantPad{r}d", r, "constant") for r in (1, 2, 3)
)
ZeroPad1d, ZeroPad2d, ZeroPad3d = (_padding(_Pad, f"ZeroPad{r}d", r, "constant") for r in (1, 2, 3))
ReflectionPad1d, ReflectionPad2d, ReflectionPad3d = (
    _padding(_Pad, f"ReflectionPad{r}d", r, "reflect") for r in (1, 2, 3)
)
ReplicationPad1d, ReplicationPad2d, ReplicationPad3d = (
    _padding(_Pad, f"ReplicationPad{r}d", r, "edge") for r in (1, 2, 3)
)
CircularPad1d, CircularPad2d, CircularPad3d = (_padding(_Pad, f"CircularPad{r}d", r, "wrap") for r in (1, 2, 3))
