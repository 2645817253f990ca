"""Checkpoints: our own format, and the official HaPTIC and HaMeR weights."""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from haptic.files import atomic_write, find_asset, reading
from haptic.models.backbone import BackboneConfig
from haptic.models.decoder import DecoderConfig
from haptic.models.haptic import Haptic, HapticConfig
from haptic.models.official_names import (
    HEAD,
    POSITION_TABLE,
    STACK,
    Source,
    count_blocks,
    count_layers,
    is_haptic,
    is_ignored,
    sources_of,
)
from haptic.models.torch_file import TensorPlan, TorchFile, open_torch_file

FORMAT = "haptic checkpoint"
FORMAT_VERSION = 1
OFFICIAL_HAND = "mano"  # official weights were trained on the licensed MANO, whichever copy of it
SAMPLE_NAMES = 3
SHIPPED = "openhand_tiny.ckpt"

Origin = Literal["haptic", "official HaPTIC", "official HaMeR"]


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says about itself."""

    hand_model_name: str  # `openhand-<8 hex>`, `mano-<8 hex>`, or `mano` for official weights
    origin: Origin


# --- our own ---------------------------------------------------------------------------------------------------------


def save_checkpoint(
    path: Path,
    model: Haptic,
    *,
    hand_model_name: str,
    weights: Mapping[str, Tensor] | None = None,
    training: Mapping[str, Any] | None = None,
    is_half: bool = False,
) -> None:
    """Write weights and config: tensors and plain values only, so that loading runs nothing.

    Args:
        weights: in place of the model's own, a moving average of them.
        training: what a run needs beside them to go on; who only wants the network does not read it.
        is_half: write matrices in half precision, for half the size; they are read back into single precision.
    """
    state_dict = {name: value.detach().cpu() for name, value in (weights or model.state_dict()).items()}
    if is_half:  # biases, norms and running statistics are few and may leave half precision's range
        state_dict = {
            name: value.half() if value.is_floating_point() and value.ndim > 1 else value
            for name, value in state_dict.items()
        }
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "hand_model": hand_model_name,
        "config": _plain_config(model.config),
        "state_dict": state_dict,
    }
    if training is not None:
        content["training"] = dict(training)
    with atomic_write(path) as file:
        torch.save(content, file)


def shipped_checkpoint() -> Path:
    """Return the weights that come with haptic (checkpoints/openhand_tiny.md)."""
    return find_asset(SHIPPED)


def load_checkpoint(path: Path, *, backbone_heads: int = 16, decoder_heads: int = 8) -> tuple[Haptic, CheckpointInfo]:
    """Return the network in evaluation mode, from our own checkpoint or an official one as it was downloaded.

    The head counts matter for official weights only, whose files do not tell them.

    Raises:
        ValueError: the file is missing, damaged, hostile, or the checkpoint of another network.
    """
    with reading(path, "weights of haptic, or an official HaPTIC or HaMeR checkpoint as it was downloaded"):
        file = open_torch_file(path)
        if isinstance(file.content, dict) and file.content.get("format") == FORMAT:
            model, info = _load_own(path)
        else:
            state_dict = _official_state_dict(file)
            try:
                model = load_official(state_dict, backbone_heads=backbone_heads, decoder_heads=decoder_heads)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            origin: Origin = "official HaPTIC" if is_haptic(state_dict) else "official HaMeR"
            info = CheckpointInfo(hand_model_name=OFFICIAL_HAND, origin=origin)
    _refuse_broken_numbers(model, path)
    return model, info


def _refuse_broken_numbers(model: Haptic, path: Path) -> None:
    broken = [
        name
        for name, value in model.state_dict().items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if broken:
        raise ValueError(
            f"{path}: {len(broken)} of the weights hold NaN or infinity ({', '.join(broken[:SAMPLE_NAMES])}); the "
            "training had gone wrong when it was saved; take an earlier checkpoint"
        )


def match_hand_model(checkpoint_hand: str, hand_model_name: str) -> Literal["as is", "zero betas"]:
    """Say how a checkpoint's answers are to be read on a hand model.

    Rotations mean the same on MANO and on the openhand; shape numbers do not, so official weights run on the openhand
    with its mean shape.

    Raises:
        ValueError: the two do not belong together.
    """
    if checkpoint_hand == hand_model_name:
        return "as is"
    if checkpoint_hand == OFFICIAL_HAND and _family(hand_model_name) == "mano":
        return "as is"
    if checkpoint_hand == OFFICIAL_HAND and _family(hand_model_name) == "openhand":
        return "zero betas"
    remedy = {
        "mano": "give the same licensed file with --hand-model, or another checkpoint",
        "openhand": "leave --hand-model away, with the haptic whose openhand this is, or use another checkpoint",
    }.get(_family(checkpoint_hand), "use another checkpoint")
    raise ValueError(
        f"the checkpoint was trained on the hand model {checkpoint_hand} and this run uses {hand_model_name}, whose "
        f"shape numbers mean something else; {remedy}"
    )


def _family(hand_model_name: str) -> str:
    return hand_model_name.partition("-")[0]


def _load_own(path: Path) -> tuple[Haptic, CheckpointInfo]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        unsafe = str(error).partition("GLOBAL ")[2].split(" ")[0] or "something that is not plain data"
        raise ValueError(f"{path}: the checkpoint names {unsafe}; nothing in it was run, and it is refused") from None
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path}: the checkpoint is damaged ({_first_line(error)}); fetch it again") from None
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: the checkpoint has format {content.get('format_version')}, this haptic reads {FORMAT_VERSION}; "
            "use the haptic that wrote it"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            model = Haptic(_config_from_plain(content["config"]), initialise=False)
        model.load_state_dict(content["state_dict"])
        info = CheckpointInfo(hand_model_name=str(content["hand_model"]), origin="haptic")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: the checkpoint does not hold what its header promises ({reason})") from None
    return model.eval(), info


def _plain_config(config: HapticConfig) -> dict[str, Any]:
    plain = asdict(config)
    plain["decoder"]["added_attention"] = list(config.decoder.added_attention)
    plain["backbone"]["maps"] = list(config.backbone.maps)
    plain["backbone"]["pretrained"] = False  # the weights are here; loading must fetch nothing
    return plain


def _config_from_plain(plain: dict[str, Any]) -> HapticConfig:
    decoder = {**plain["decoder"], "added_attention": tuple(plain["decoder"]["added_attention"])}
    rest = {name: value for name, value in plain.items() if name not in ("backbone", "decoder")}
    backbone = {**plain["backbone"], "maps": tuple(plain["backbone"].get("maps", (-1,)))}
    return HapticConfig(backbone=BackboneConfig(**backbone), decoder=DecoderConfig(**decoder), **rest)


# --- official --------------------------------------------------------------------------------------------------------


def read_official(path: Path) -> "OrderedDict[str, Tensor]":
    """Return the weights in an official file. Nothing in it is run; whatever else it holds is dropped.

    Raises:
        ValueError: the file is missing or damaged, or holds no weights.
    """
    return _official_state_dict(open_torch_file(path))


def load_official(state_dict: Mapping[str, Tensor], *, backbone_heads: int = 16, decoder_heads: int = 8) -> Haptic:
    """Return the network that official HaPTIC or HaMeR weights belong to, in evaluation mode.

    Widths and depths are read from the tensors; head counts are not in them. HaMeR's weights give a HaPTIC network
    whose added attentions are silent: it answers as HaMeR does, with a depth of zero, until it is trained.

    Raises:
        ValueError: names are missing or unexpected (all are listed), or shapes do not fit together.
    """
    given = {name: value for name, value in state_dict.items() if not is_ignored(name)}
    if not any(name.startswith(("backbone.", HEAD)) for name in given):
        sample = ", ".join(list(given)[:SAMPLE_NAMES]) or "nothing"
        raise ValueError(
            f"another network's weights: got {sample}; expected HaPTIC's or HaMeR's, with names such as "
            "backbone.pos_embed and mano_head.decpose.weight"
        )
    sources = sources_of(given)
    _check_names(given, sources)
    config = _official_config(given, backbone_heads=backbone_heads, decoder_heads=decoder_heads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what HaMeR lacks starts the same every time
        model = Haptic(config, initialise=False)
    own = model.state_dict()
    tensors = {ours: source.make(given).to(torch.float32) for ours, source in sources.items()}
    if not is_haptic(given):
        tensors |= {ours: value for ours, value in own.items() if ours not in tensors}
        for part in ("weight", "bias"):
            tensors[f"readout.depth.{part}"] = torch.zeros_like(own[f"readout.depth.{part}"])
    _check_shapes(tensors, own, sources)
    model.load_state_dict(tensors)
    return model.eval()


def _official_state_dict(file: TorchFile) -> "OrderedDict[str, Tensor]":
    content = file.content
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not any(isinstance(value, TensorPlan) for value in weights.values()):
        named = (
            f"; it names {', '.join(file.placeholders[:SAMPLE_NAMES])}, which was not run" if file.placeholders else ""
        )
        raise ValueError(f"{file.path}: no checkpoint: it holds no weights{named}")
    foreign = [str(name) for name, value in weights.items() if not isinstance(value, TensorPlan)]
    if foreign:
        raise ValueError(
            f"{file.path}: among the weights, {', '.join(foreign)} is no tensor; the file is damaged or hostile"
        )
    return OrderedDict((str(name), file.tensor(plan)) for name, plan in weights.items())


def _check_names(given: Mapping[str, Tensor], sources: Mapping[str, Source]) -> None:
    wanted = {name for source in sources.values() for name in source.names}
    found = []
    if missing := sorted(wanted - set(given)):
        found.append(f"{len(missing)} missing: {', '.join(missing)}")
    if unexpected := sorted(set(given) - wanted):
        found.append(f"{len(unexpected)} unexpected: {', '.join(unexpected)}")
    if found:
        raise ValueError(f"the weights do not match HaPTIC or HaMeR; {'; '.join(found)}")


def _official_config(given: Mapping[str, Tensor], *, backbone_heads: int, decoder_heads: int) -> HapticConfig:
    dim = given["backbone.pos_embed"].shape[-1]
    inner_dim = given[STACK + "layers.0.0.fn.to_qkv.weight"].shape[0] // 3
    if decoder_heads < 1 or inner_dim % decoder_heads:
        raise ValueError(
            f"decoder_heads is {decoder_heads}, but the decoder's attention is {inner_dim} wide and does not divide "
            "into as many heads; official checkpoints have 8"
        )
    table = given.get(POSITION_TABLE)
    return HapticConfig(
        backbone=BackboneConfig(
            dim=dim,
            depth=count_blocks(given),
            heads=backbone_heads,
            mlp_ratio=given["backbone.blocks.0.mlp.fc1.weight"].shape[0] / dim,
            patch_px=given["backbone.patch_embed.proj.weight"].shape[-1],
        ),
        decoder=DecoderConfig(
            dim=given[HEAD + "decpose.weight"].shape[-1],
            depth=count_layers(given),
            heads=decoder_heads,
            head_dim=inner_dim // decoder_heads,
            mlp_dim=given[STACK + "layers.0.2.fn.net.0.weight"].shape[0],
            max_frames=DecoderConfig.max_frames if table is None else table.shape[1],
        ),
    )


def _check_shapes(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], sources: Mapping[str, Source]) -> None:
    wrong = [
        f"{' + '.join(sources[name].names)} gives {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        for name, value in tensors.items()
        if value.shape != own[name].shape
    ]
    if wrong:
        raise ValueError(f"weights of the wrong shape: {'; '.join(wrong)}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
