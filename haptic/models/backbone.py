"""The picture's encoder: a picture in, a row of feature tokens out. timm builds it; ViTPose's quirks come on top."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from einops import rearrange
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.overrides import TorchFunctionMode

NORM_EPS = 1e-6  # the decoder's is torch's default, 1e-5
POSITION_SPREAD = 0.02  # of learned positions at the start, as in ViTs


@dataclass(frozen=True)
class BackboneConfig:
    """A vision transformer. The numbers are those of ViTPose's ViT-H, which HaMeR and HaPTIC are built on.

    `timm_name` takes any of timm's models instead: vision transformers (also with a convolutional stem) as they are,
    others by their feature maps. Then only `pretrained`, `drop_path` and, for feature maps, `maps` and `map_dim` count.
    """

    timm_name: str | None = None
    pretrained: bool = False  # fetch timm's own weights; only with `timm_name`
    maps: tuple[int, ...] = (-1,)  # which of timm's feature maps, -1 the coarsest; their tokens stand in a row
    map_dim: int = 256  # width of those tokens
    dim: int = 1280
    depth: int = 32
    heads: int = 16
    mlp_ratio: float = 4.0
    patch_px: int = 16
    patch_padding_px: int = 2
    drop_path: float = 0.55  # rate of the last block, growing from zero; acts while training only

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "heads", "patch_px", "map_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"backbone.{name} is {getattr(self, name)}; it must be 1 or more")
        if self.dim % self.heads:
            raise ValueError(f"backbone.dim {self.dim} does not divide into backbone.heads = {self.heads} heads")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"backbone.drop_path is {self.drop_path}; it is a rate, from 0 to below 1")
        if self.patch_padding_px < 0:
            raise ValueError(f"backbone.patch_padding_px is {self.patch_padding_px}; it must be 0 or more")
        if self.pretrained and self.timm_name is None:
            raise ValueError("backbone.pretrained asks for timm's weights, but backbone.timm_name names no model")
        if not self.maps or len(set(self.maps)) < len(self.maps):
            raise ValueError(f"backbone.maps is {list(self.maps)}; name at least one feature map, each once, e.g. [-1]")


class Backbone(nn.Module):
    """A timm model without its classifier; tokens come row by row.

    ViTPose's patch convolution is padded by two pixels, so that it covers rows -2 to 253 of 256.
    """

    vit: Any  # timm's classes share no type that promises `forward_features`

    def __init__(
        self, config: BackboneConfig, *, height_px: int, width_px: int, any_size: bool = False, initialise: bool = True
    ) -> None:
        """Build for pictures of one size.

        Args:
            any_size: other sizes are taken too; positions are interpolated for them.
            initialise: False leaves the weights arbitrary, for a caller who overwrites them all.
        """
        super().__init__()
        with nullcontext() if initialise else _Uninitialised():
            if config.timm_name is None:
                self.vit = _vitpose(config, height_px, width_px, any_size=any_size, initialise=initialise)
            else:
                self.vit = _timm_model(config, height_px, width_px, any_size=any_size)
        self.dim = int(self.vit.num_features)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N P C"]:
        """Return the feature tokens of each picture, normalised by the last LayerNorm."""
        return self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]

    def grids(self) -> list[tuple[int, int]]:
        """Return rows and columns of the grids that the tokens of a crop come in, one after the other."""
        if isinstance(self.vit, FeatureMaps):
            return [(int(one.shape[-2]), int(one.shape[-1])) for one in self.vit.positions]
        rows, columns = self.vit.patch_embed.grid_size
        return [(int(rows), int(columns))]

    def set_checkpointing(self, is_on: bool) -> None:
        """Compute activations again in the backward pass instead of keeping them: slower, and far less memory.

        Raises:
            ValueError: timm has no such thing for this model.
        """
        try:
            self.vit.set_grad_checkpointing(is_on)
        except (AttributeError, AssertionError):
            raise ValueError("this backbone knows no activation checkpointing; switch it off") from None


class FeatureMaps(nn.Module):
    """A convolutional or hybrid timm model as a row of tokens: its feature maps, projected to one width.

    A transformer's patches know their places; a map's cells are told theirs here. It answers like timm's ViTs.
    """

    model: Any
    num_prefix_tokens = 0

    def __init__(self, config: BackboneConfig, *, height_px: int, width_px: int, any_size: bool) -> None:
        super().__init__()
        assert config.timm_name is not None
        extra: dict[str, Any] = {"drop_path_rate": config.drop_path} if config.drop_path > 0 else {}
        self.model = timm.create_model(
            config.timm_name, pretrained=config.pretrained, features_only=True, out_indices=config.maps, **extra
        )
        self.num_features = config.map_dim
        self._any_size = any_size
        self.model.eval()  # or a black picture would enter the running statistics
        with torch.no_grad():
            sizes = [one.shape[-2:] for one in self._maps(torch.zeros(1, 3, height_px, width_px))]
        self.model.train().to(memory_format=torch.channels_last)  # half as fast again on processors
        channels = self.model.feature_info.channels()
        self.project = nn.ModuleList(nn.Linear(width, config.map_dim) for width in channels)
        self.positions = nn.ParameterList(torch.randn(1, config.map_dim, *size) * POSITION_SPREAD for size in sizes)
        self.norm = nn.LayerNorm(config.map_dim)

    def forward_features(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N P C"]:
        """Return the tokens of all maps, one map after the other."""
        rows = []
        for one, project, position in zip(self._maps(images), self.project, self.positions, strict=True):
            if one.shape[-2:] != position.shape[-2:]:
                assert self._any_size, "pictures have the size that the network was built for"
                position = interpolate(position, size=one.shape[-2:], mode="bilinear")
            rows.append(project(rearrange(one, "N c h w -> N (h w) c")) + rearrange(position, "N c h w -> N (h w) c"))
        return self.norm(torch.cat(rows, dim=1))

    def set_grad_checkpointing(self, is_on: bool) -> None:
        """Do what timm's ViTs do under this name."""
        self.model.set_grad_checkpointing(is_on)

    def _maps(self, images: Tensor) -> list[Tensor]:
        """Return the maps, channels first, whichever way round the model has them."""
        found = self.model(images.contiguous(memory_format=torch.channels_last))
        channels = self.model.feature_info.channels()
        return [
            one if one.shape[1] == width else rearrange(one, "N h w c -> N c h w")
            for one, width in zip(found, channels, strict=True)
        ]


class _Uninitialised(TorchFunctionMode):
    """Makes torch.nn.init do nothing: a ViT-H that is overwritten anyway need not be drawn first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _vitpose(
    config: BackboneConfig, height_px: int, width_px: int, *, any_size: bool, initialise: bool
) -> VisionTransformer:
    vit = VisionTransformer(
        img_size=(height_px, width_px),
        patch_size=config.patch_px,
        num_classes=0,
        global_pool="",
        embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        class_token=False,
        dynamic_img_size=any_size,
        drop_path_rate=config.drop_path,
        # timm hands `device` and `dtype` on to the norm layer, which a lambda would not take.
        norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
        weight_init="" if initialise else "skip",
    )
    vit.patch_embed.proj.padding = (config.patch_padding_px, config.patch_padding_px)
    return vit


def _timm_model(config: BackboneConfig, height_px: int, width_px: int, *, any_size: bool) -> nn.Module:
    assert config.timm_name is not None
    try:
        if not timm.is_model(config.timm_name.partition(".")[0]):
            raise ValueError("timm has no model of this name")
        return _timm_vit(config, height_px, width_px, any_size=any_size) or FeatureMaps(
            config, height_px=height_px, width_px=width_px, any_size=any_size
        )
    except (RuntimeError, TypeError, AssertionError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(
            f"backbone.timm_name: timm cannot build {config.timm_name!r} for pictures of {height_px} x {width_px} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); name one of its vision "
            "transformers whose patch divides both sides, or a model that gives feature maps"
        ) from None


def _timm_vit(config: BackboneConfig, height_px: int, width_px: int, *, any_size: bool) -> nn.Module | None:
    """Return a vision transformer, or None if the name means another kind of model."""
    assert config.timm_name is not None
    try:
        vit = timm.create_model(
            config.timm_name,
            pretrained=config.pretrained,
            img_size=(height_px, width_px),
            dynamic_img_size=any_size,
            num_classes=0,
            global_pool="",
            drop_path_rate=config.drop_path,
        )
    except TypeError:  # no such arguments: only models of one size per network take them
        return None
    return vit if hasattr(vit, "num_prefix_tokens") and hasattr(vit, "blocks") else None


def window_of(images: Float[Tensor, "N 3 S S"], keep_width: float) -> Float[Tensor, "N 3 S W"]:
    """Return the middle columns: ViTPose is made for 256 x 192, so a crop of 256 loses 32 columns on each side."""
    side_px = images.shape[-1]
    dropped_px = (side_px - round(side_px * keep_width)) // 2
    return images[..., dropped_px : side_px - dropped_px]
