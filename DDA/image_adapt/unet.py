"""The ADM U-Net, with the parameter names of the public checkpoints.

These are the checkpoints of guided-diffusion and improved-diffusion. Dhariwal & Nichol,
"Diffusion Models Beat GANs on Image Synthesis" (arXiv:2105.05233), appendix; Nichol & Dhariwal,
"Improved DDPM" (arXiv:2102.09672). The module tree follows from the names in those files; the
computation follows the papers.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

NUM_CLASSES = 1000  # of the public class-conditional checkpoints

# channel_mult where none is given: by image size, as the public training code chose it
DEFAULT_CHANNEL_MULT = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
}


def timestep_embedding(t: torch.Tensor, width: int) -> torch.Tensor:
    """Return the sinusoidal embedding (B, width) of times t (B,).

    Cosines come first; an odd width ends with a zero.
    """
    half = width // 2
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    )
    angles = t[:, None].float() * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


class Norm(nn.GroupNorm):
    """A normalisation in 32 groups: statistics in float32, the result in the input's dtype."""

    def __init__(self, channels: int):
        super().__init__(32, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(
            x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps
        )


class _SameEverywhere:
    """A convolution that gives the same result in low precision on every device.

    CPUs without the instructions for a low precision take minutes where float32 takes seconds;
    there the same rounded numbers are multiplied and summed in float32, as the hardware that has
    the instructions does, and the result is rounded.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cpu and not cpu_computes(x.dtype):
            return self._conv_forward(x.float(), self.weight.float(), self.bias.float()).to(x.dtype)
        return super().forward(x)


class Conv1d(_SameEverywhere, nn.Conv1d):
    """A convolution over sequences."""


class Conv2d(_SameEverywhere, nn.Conv2d):
    """A convolution over images."""


@lru_cache
def cpu_computes(dtype: torch.dtype) -> bool:
    """Tell whether this CPU has instructions that convolve in ``dtype``.

    oneDNN accepts bfloat16 on any CPU with AVX-512, but without the instructions it is several
    times slower than float32.
    """
    if dtype == torch.float32:
        return True
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    probes = [getattr(torch.cpu, name, None) for name in names]
    has_instructions = not is_x86 or None in probes or any(probe() for probe in probes)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and has_instructions


class Downsample(nn.Module):
    """Halve the image with a strided convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double the image by repeating pixels, then convolve."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(_double(x))


def _double(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _halve(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 2)


class ResBlock(nn.Module):
    """A residual block that is conditioned on the time embedding.

    resize: "up", "down" or None, how the image size changes inside.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        *,
        dropout: float,
        scale_shift: bool,
        resize: str | None = None,
    ):
        super().__init__()
        self.scale_shift = scale_shift
        self.resize = {"up": _double, "down": _halve, None: nn.Identity()}[resize]
        self.in_layers = nn.Sequential(
            Norm(channels), nn.SiLU(), Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(embedding, out_channels * (2 if scale_shift else 1))
        )
        self.out_layers = nn.Sequential(
            Norm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            _zeroed(Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = (
            nn.Identity() if channels == out_channels else Conv2d(channels, out_channels, 1)
        )

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        norm, activation, conv = self.in_layers
        h = conv(self.resize(activation(norm(x))))
        condition = self.emb_layers(embedding)[:, :, None, None].to(h.dtype)
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + condition)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self.resize(x)) + h


class AttentionBlock(nn.Module):
    """Self-attention over all pixels.

    new_order: the channels of qkv have q, k, v outside and the heads inside; otherwise the
    reverse.
    """

    def __init__(self, channels: int, *, heads: int, new_order: bool):
        super().__init__()
        self.heads = heads
        self.new_order = new_order
        self.norm = Norm(channels)
        self.qkv = Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(Conv1d(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        flat = x.reshape(batch, channels, height * width)
        qkv = self.qkv(self.norm(flat))
        per_head = channels // self.heads
        if self.new_order:
            q, k, v = qkv.view(batch, 3, self.heads, per_head, -1).unbind(1)
        else:
            q, k, v = qkv.view(batch, self.heads, 3, per_head, -1).unbind(2)
        # (B, heads, pixels, channels of a head)
        h = F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT.reshape(batch, channels, -1)
        return (flat + self.proj_out(h)).view(x.shape)


class Stage(nn.Sequential):
    """The layers between two skip connections; residual blocks also get the time embedding."""

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """Make the layers of a U-Net, which share its settings.

    widths: channels of each level; level 0 has the full size. attention_levels: the levels with
    attention. blocks: settings of every `ResBlock`.
    """

    widths: Sequence[int]
    attention_levels: Collection[int]
    num_res_blocks: int
    num_head_channels: int
    embedding: int
    blocks: Mapping[str, Any]
    resblock_updown: bool
    new_attention_order: bool

    def block(self, width_in: int, width_out: int, resize: str | None = None) -> ResBlock:
        return ResBlock(width_in, width_out, self.embedding, resize=resize, **self.blocks)

    def attention(self, width: int, heads: int) -> AttentionBlock:
        if self.num_head_channels != -1:
            heads = width // self.num_head_channels
        return AttentionBlock(width, heads=heads, new_order=self.new_attention_order)

    def resized(self, width: int, way: str) -> nn.Module:
        if self.resblock_updown:
            return self.block(width, width, way)
        return Downsample(width) if way == "down" else Upsample(width)

    def down(self, heads: int) -> tuple[nn.ModuleList, list[int]]:
        """Return the stages that shrink the image, and the width of the skip from each."""
        width = self.widths[0]
        stages = nn.ModuleList([Stage(Conv2d(3, width, 3, padding=1))])
        skips = [width]
        for level, width_out in enumerate(self.widths):
            for _ in range(self.num_res_blocks):
                layers = [self.block(width, width_out)]
                width = width_out
                if level in self.attention_levels:
                    layers.append(self.attention(width, heads))
                stages.append(Stage(*layers))
                skips.append(width)
            if level < len(self.widths) - 1:
                stages.append(Stage(self.resized(width, "down")))
                skips.append(width)
        return stages, skips

    def up(self, skips: Sequence[int], heads: int) -> nn.ModuleList:
        """Return the stages that enlarge the image; each takes the last skip that is unused."""
        unused, width = list(skips), skips[-1]
        stages = nn.ModuleList()
        for level, width_out in reversed(list(enumerate(self.widths))):
            for i in range(self.num_res_blocks + 1):
                layers = [self.block(width + unused.pop(), width_out)]
                width = width_out
                if level in self.attention_levels:
                    layers.append(self.attention(width, heads))
                if level and i == self.num_res_blocks:
                    layers.append(self.resized(width, "up"))
                stages.append(Stage(*layers))
        return stages


class UNet(nn.Module):
    """A U-Net over images (B,3,H,W) in [-1,1] and times (B,); see `create_unet` for the flags."""

    def __init__(
        self,
        *,
        channels: int,
        channel_mult: Sequence[float],
        num_res_blocks: int,
        attention_downsamplings: Sequence[int],
        out_channels: int,
        num_classes: int | None,
        num_heads: int,
        num_heads_upsample: int,
        num_head_channels: int,
        dropout: float,
        scale_shift: bool,
        resblock_updown: bool,
        new_attention_order: bool,
    ):
        super().__init__()
        self.channels = channels
        self.dtype = torch.float32
        embedding = 4 * channels
        self.time_embed = nn.Sequential(
            nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, embedding)
        self.num_classes = num_classes

        levels = range(len(channel_mult))
        parts = _Parts(
            widths=[int(mult * channels) for mult in channel_mult],
            attention_levels={level for level in levels if 2**level in attention_downsamplings},
            num_res_blocks=num_res_blocks,
            num_head_channels=num_head_channels,
            embedding=embedding,
            blocks={"dropout": dropout, "scale_shift": scale_shift},
            resblock_updown=resblock_updown,
            new_attention_order=new_attention_order,
        )
        self.input_blocks, skips = parts.down(num_heads)
        width = skips[-1]
        first, attention = parts.block(width, width), parts.attention(width, num_heads)
        self.middle_block = Stage(first, attention, parts.block(width, width))
        self.output_blocks = parts.up(skips, num_heads_upsample)
        width = parts.widths[0]
        end = _zeroed(Conv2d(width, out_channels, 3, padding=1))
        self.out = nn.Sequential(Norm(width), nn.SiLU(), end)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the network's output (B,3 or 6,H,W).

        x: (B,3,H,W) float. t: (B,) original timesteps. y: (B,) class ids of a class-conditional
        network.
        """
        if (y is None) != (self.num_classes is None):
            raise ValueError("y goes with a class-conditional network, and only with one")
        embedding = self.time_embed(timestep_embedding(t, self.channels))
        if y is not None:
            embedding = embedding + self.label_emb(y)
        h = x.to(self.dtype)
        skips = []
        for stage in self.input_blocks:
            h = stage(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h.to(x.dtype))

    def convert(self, dtype: torch.dtype) -> UNet:
        """Run the body in ``dtype``; embeddings, norm parameters and the last layer stay float32.

        Returns self.
        """
        for part in (self.input_blocks, self.middle_block, self.output_blocks):
            for module in part.modules():
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    module.to(dtype)
        self.dtype = dtype
        return self


def _zeroed(module: nn.Module) -> nn.Module:
    """Set the parameters of a layer to zero, so that a residual branch starts as zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def create_unet(
    *,
    image_size: int,
    num_channels: int,
    num_res_blocks: int,
    channel_mult: str | Sequence[float] = "",
    num_heads: int = 4,
    num_head_channels: int = -1,
    num_heads_upsample: int = -1,
    attention_resolutions: str = "16,8",
    dropout: float = 0.0,
    class_cond: bool = False,
    use_scale_shift_norm: bool = True,
    resblock_updown: bool = False,
    learn_sigma: bool = False,
    use_new_attention_order: bool = False,
    use_fp16: bool = False,
    num_classes: int = NUM_CLASSES,
) -> UNet:
    """Build the U-Net that the flags of the public training code describe.

    channel_mult: width of each level in units of num_channels, "1,2,2"; empty means the default
    of the image size. attention_resolutions: the image sizes, "16,8", that have attention.
    num_heads_upsample -1: as num_heads. num_head_channels other than -1 decides the number of
    heads. use_fp16: run the body in float16. Raises ValueError for flags that do not fit.
    """
    mult = parse_channel_mult(channel_mult, image_size)
    if image_size % 2 ** (len(mult) - 1):
        raise ValueError(
            f"`image_size` {image_size} cannot be halved {len(mult) - 1} times (`channel_mult` "
            f"{channel_mult!r})"
        )
    downsamplings = parse_attention_resolutions(attention_resolutions, image_size)
    heads = {"num_heads": num_heads}
    if num_heads_upsample != -1:
        heads["num_heads_upsample"] = num_heads_upsample
    if num_head_channels != -1:
        heads = {"num_head_channels": num_head_channels}
    _check_widths(num_channels, mult, downsamplings, **heads)
    unet = UNet(
        channels=num_channels,
        channel_mult=mult,
        num_res_blocks=num_res_blocks,
        attention_downsamplings=downsamplings,
        out_channels=6 if learn_sigma else 3,
        num_classes=num_classes if class_cond else None,
        num_heads=num_heads,
        num_heads_upsample=num_heads if num_heads_upsample == -1 else num_heads_upsample,
        num_head_channels=num_head_channels,
        dropout=dropout,
        scale_shift=use_scale_shift_norm,
        resblock_updown=resblock_updown,
        new_attention_order=use_new_attention_order,
    )
    return unet.convert(torch.float16) if use_fp16 else unet


def _check_widths(
    num_channels: int, mult: Sequence[float], downsamplings: Sequence[int], **heads: int
) -> None:
    """Raise ValueError for a level whose channels cannot be divided into groups or heads.

    heads: the settings that decide the heads, by name. The last level always has attention.
    """
    for level, width in enumerate(int(m * num_channels) for m in mult):
        if width % 32:
            raise ValueError(
                f"`num_channels` {num_channels} times {mult[level]:g} is no multiple of the 32 "
                "norm groups"
            )
        has_attention = 2**level in downsamplings or level == len(mult) - 1
        for name, part in heads.items() if has_attention else ():
            if part < 1 or width % part:
                raise ValueError(
                    f"`{name}` {part} does not divide the {width} channels of a level with "
                    "attention"
                )


def parse_channel_mult(channel_mult: str | Sequence[float], image_size: int) -> tuple[float, ...]:
    """Return ``"1,2,2"`` or a sequence as a tuple; an empty one is the default of the image size.

    Raises ValueError for anything else.
    """
    if not channel_mult:
        if image_size not in DEFAULT_CHANNEL_MULT:
            sizes = ", ".join(map(str, DEFAULT_CHANNEL_MULT))
            raise ValueError(
                f"`channel_mult` must be given: `image_size` {image_size} has no default (only "
                f"{sizes} have)"
            )
        return DEFAULT_CHANNEL_MULT[image_size]
    parts = channel_mult.split(",") if isinstance(channel_mult, str) else channel_mult
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        raise ValueError(
            f'`channel_mult` {channel_mult!r} is not a list of numbers like "1,2,2"'
        ) from None


def parse_attention_resolutions(attention_resolutions: str, image_size: int) -> tuple[int, ...]:
    """Return image sizes ``"16,8"`` as downsampling factors of the image. Raises ValueError."""
    try:
        return tuple(
            image_size // int(part)
            for part in str(attention_resolutions).split(",")
            if part.strip()
        )
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"`attention_resolutions` {attention_resolutions!r} is not a list of image sizes "
            'like "16,8"'
        ) from None
