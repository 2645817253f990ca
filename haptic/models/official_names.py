"""The names in official HaPTIC and HaMeR checkpoints, and which of our tensors each one becomes."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

# What official checkpoints hold beside the network. `backbone_bg` is the backbone a second time, `mano` is the licensed
# hand model, and the named table is stored but read by nothing (at tiny sizes it has the shape of the one that is).
IGNORED_PREFIXES = ("backbone_bg.", "discriminator.", "mano.")
IGNORED_NAMES = ("initialized", "mano_head.transformer.pos_enc_f.pos_table")
HAPTIC_ONLY = ("cross_view_layers", "global_layers", "init_aux", "decaux")

HEAD = "mano_head."
STACK = "mano_head.transformer.transformer."
POSITION_TABLE = STACK + "pos_enc_f.pos_table"


@dataclass(frozen=True)
class Source:
    """The official names that one of our tensors is made from, and how."""

    names: tuple[str, ...]
    combine: Callable[..., Tensor]

    def make(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return our tensor."""
        return self.combine(*(given[name] for name in self.names))


def _same(value: Tensor) -> Tensor:
    return value


def _first_row(value: Tensor) -> Tensor:
    return value[0]


def _fold_class_row(pos_embed: Tensor) -> Tensor:
    """ViTPose adds the class token's position, row 0, to every patch."""
    return pos_embed[:, 1:] + pos_embed[:, :1]


def _constant_token(bias: Tensor, position: Tensor, _weight: Tensor) -> Tensor:
    """The official input is a zero scalar through a linear layer: its weight never matters."""
    return bias + position[0, 0]


def _value_third(to_qkv: Tensor) -> Tensor:
    return to_qkv[2 * (to_qkv.shape[0] // 3) :]


def sources_of(names: Iterable[str]) -> dict[str, Source]:
    """Return, for each of our names, where it comes from in a checkpoint of these official names."""
    names = set(names)
    with_added = is_haptic(names)
    sources = _backbone_sources(count_blocks(names))
    transformer = HEAD + "transformer."
    sources["decoder.token"] = Source(
        (
            transformer + "to_token_embedding.bias",
            transformer + "pos_embedding",
            transformer + "to_token_embedding.weight",
        ),
        _constant_token,
    )
    if with_added or POSITION_TABLE in names:
        sources["decoder.frame_positions"] = Source((POSITION_TABLE,), _first_row)
    for layer in range(count_layers(names)):
        sources |= _layer_sources(layer, with_added=with_added)
    readouts = {"pose": "decpose", "betas": "decshape", "camera": "deccam"}
    starts = {"mean_pose_6d": "init_hand_pose", "mean_betas": "init_betas", "mean_camera": "init_cam"}
    if with_added:
        readouts["depth"] = "decaux"
        starts["mean_depth"] = "init_aux"
    for ours, official in readouts.items():
        sources |= _linear(f"readout.{ours}", HEAD + official)
    for ours, official in starts.items():
        sources[f"readout.{ours}"] = Source((HEAD + official,), _first_row)
    return sources


def _backbone_sources(num_blocks: int) -> dict[str, Source]:
    ours, official = "backbone.vit.", "backbone."
    sources = {ours + "pos_embed": Source((official + "pos_embed",), _fold_class_row)}
    sources |= _linear(ours + "patch_embed.proj", official + "patch_embed.proj")
    sources |= _linear(ours + "norm", official + "last_norm")
    for block in range(num_blocks):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            sources |= _linear(f"{ours}blocks.{block}.{part}", f"{official}blocks.{block}.{part}")
    return sources


def _layer_sources(layer: int, *, with_added: bool) -> dict[str, Source]:
    ours = f"decoder.layers.{layer}."
    lone, crop, feed = (f"{STACK}layers.{layer}.{part}." for part in range(3))
    sources = {
        ours + "self_attention.to_v.weight": Source((lone + "fn.to_qkv.weight",), _value_third),
        **_linear(ours + "self_attention.norm", lone + "norm"),
        **_linear(ours + "self_attention.to_out", lone + "fn.to_out.0"),
        **_picture_attention(ours + "crop_attention.", crop),
        **_linear(ours + "feed_forward.norm", feed + "norm"),
        **_linear(ours + "feed_forward.expand", feed + "fn.net.0"),
        **_linear(ours + "feed_forward.contract", feed + "fn.net.3"),
    }
    if with_added:
        view, whole = f"{STACK}cross_view_layers.{layer}.0.", f"{STACK}global_layers.{layer}.0."
        sources[ours + "added.cross_view.to_qkv.weight"] = Source((view + "fn.to_qkv.weight",), _same)
        sources |= _linear(ours + "added.cross_view.norm", view + "norm")
        sources |= _linear(ours + "added.cross_view.to_out", view + "fn.to_out.0")
        sources |= _picture_attention(ours + "added.global.", whole)
    return sources


def _picture_attention(ours: str, official: str) -> dict[str, Source]:
    return {
        ours + "to_q.weight": Source((official + "fn.to_q.weight",), _same),
        ours + "to_kv.weight": Source((official + "fn.to_kv.weight",), _same),
        **_linear(ours + "norm", official + "norm"),
        **_linear(ours + "to_out", official + "fn.to_out.0"),
    }


def _linear(ours: str, official: str) -> dict[str, Source]:
    return {f"{ours}.{part}": Source((f"{official}.{part}",), _same) for part in ("weight", "bias")}


def is_ignored(name: str) -> bool:
    """Say whether an official name is no part of the network."""
    return name.startswith(IGNORED_PREFIXES) or name in IGNORED_NAMES


def is_haptic(names: Iterable[str]) -> bool:
    """Say whether the names are HaPTIC's; else they are HaMeR's, which knows single images only."""
    return any(part in name for name in names for part in HAPTIC_ONLY)


def count_blocks(names: Iterable[str]) -> int:
    """Return the number of backbone blocks."""
    return _count(names, r"backbone\.blocks\.")


def count_layers(names: Iterable[str]) -> int:
    """Return the number of decoder layers."""
    return _count(names, re.escape(STACK) + r"layers\.")


def _count(names: Iterable[str], pattern: str) -> int:
    names = list(names)
    found = [re.match(pattern + r"(\d+)\.", name) for name in names]
    highest = max((int(match[1]) + 1 for match in found if match), default=0)
    return min(highest, len(names))  # a made-up number must not make us list a billion missing names
