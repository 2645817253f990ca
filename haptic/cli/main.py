"""Arguments, help and exit codes of `infer.py` (and of the command `haptic`, which is the same).

Exit codes: 0 all went well (also where a video shows no hand), 2 something could not be used (each in one line),
130 interrupted by Ctrl-C.
"""

import json
import logging
import math
import os
import signal
import sys
import threading
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionYesNo, ArgumentParser
from jsonargparse import Namespace as Arguments

import haptic
from haptic.cli.batch import BatchOptions, OutputOptions, run_batch
from haptic.cli.demo import DEMO_CLIP
from haptic.cli.messages import describe_error, say
from haptic.cli.progress import BarProgress, NoProgress
from haptic.files import find_asset
from haptic.hand.model import load_hand_model
from haptic.inference.keypoints import KeypointInitConfig
from haptic.inference.network import NetworkConfig, choose_device
from haptic.models.checkpoint import load_checkpoint, shipped_checkpoint
from haptic.options import TeachingParser, check_config_files, config_files_of, option_faults_named
from haptic.perception.cameras import CameraConfig, parse_intrinsics
from haptic.perception.detector import DetectorConfig
from haptic.perception.tracker import TrackerConfig
from haptic.perception.video import find_inputs
from haptic.pipeline import Init, Network, PipelineConfig
from haptic.refinement.stages import RefinementConfig, fast_stages

DESCRIPTION = """\
Recover every hand of a video as a 4D trajectory: MANO pose and shape, and metric position over time.

  python infer.py clip.mp4 --out results            one video
  python infer.py videos/ more.mov --out results    every video of a folder, and one more
  python infer.py frames/ --out results             a folder of pictures is one video, in name order
  python infer.py photos/*.jpg --images --out out   each picture alone
  python infer.py clip.mp4 --out results --focal-px 1400      your camera's focal length, if you know it
  python infer.py clip.mp4 --out results --checkpoint hamer.ckpt --hand-model MANO_RIGHT.pkl

Each video gets its folder: trajectory.npz, scene.glb (Blender), scene.html, overlay.mp4, trajectory.png, summary.json.
docs/outputs.md describes them."""

# Which start scores better on real clips, both refined: checkpoints/openhand_tiny.md has the numbers.
DEFAULT_INIT: Init = "keypoints"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    hush_libraries()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)  # a scheduler's or container's stop ends like Ctrl-C
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        say("interrupted; videos that were finished before are kept")
        return 130
    except BrokenPipeError:
        return 0  # nobody reads what is shown any more
    except (ValueError, OSError) as error:
        say(describe_error(error))
        return 2


def _stop(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _run(arguments: Sequence[str] | None) -> int:
    parser = build_parser()
    words = _join_intrinsics(sys.argv[1:] if arguments is None else arguments)
    files = config_files_of(words)
    check_config_files(parser, files)
    with option_faults_named(parser, files, words):
        options = parser.parse_args(words)
    inputs_given = list(options.inputs) or _inputs_of_config_files(options.config or [])
    if options.demo:
        inputs_given.insert(0, str(find_asset(DEMO_CLIP)))
    if not inputs_given:
        raise ValueError("no video given; say: infer.py VIDEO --out DIR, or infer.py --demo, or infer.py --help")
    if not all(str(given).strip() for given in [*inputs_given, options.out]):
        raise ValueError("an empty name was given for a video or for --out; is a variable of your shell not set?")
    if not (math.isfinite(options.fps) and options.fps > 0):
        raise ValueError(f"--fps is {options.fps:g}; expected frames per second, above 0 (it is for pictures)")
    inputs = find_inputs(inputs_given, images=options.images)
    if len(inputs) > 1 and (options.detections or options.cameras):
        raise ValueError(
            f"--detections and --cameras belong to one video, and {len(inputs)} are given; run them one by one"
        )
    with option_faults_named(parser, files, words):
        batch = _batch_options(options, parser.instantiate(options))
    return run_batch(inputs, batch, NoProgress() if options.quiet else BarProgress())


def _join_intrinsics(arguments: Sequence[str]) -> list[str]:
    """Write `--intrinsics -1,2,3,4` as one word: a leading minus would otherwise be read as another option."""
    words = [str(word) for word in arguments]
    for place in range(len(words) - 1, 0, -1):
        if words[place - 1] == "--intrinsics" and words[place][:1] == "-" and words[place][1:2].isdigit():
            words[place - 1 : place + 1] = [f"--intrinsics={words[place]}"]
    return words


def _inputs_of_config_files(files: Sequence[Any]) -> list[str]:
    """Return `inputs:` of the last config file that has it; the parser itself takes them from the command line only."""
    for file in reversed(files):
        content = yaml.safe_load(Path(str(file)).read_text())
        inputs = content.get("inputs") if isinstance(content, dict) else None
        if inputs:
            return [str(item) for item in ([inputs] if isinstance(inputs, str) else inputs)]
    return []


def _batch_options(options: Arguments, config: Any) -> BatchOptions:
    hand_model = load_hand_model(_path(options.hand_model))
    network_config = _network_config(options, config.network)
    checkpoint = _path(options.checkpoint)
    init: Init = options.init or (DEFAULT_INIT if checkpoint is None else "network")
    is_own_choice = checkpoint is not None and init == "network"
    if checkpoint is None and init == "network":
        checkpoint = shipped_checkpoint()
    network = None if checkpoint is None else _load_network(checkpoint, options)
    pipeline = PipelineConfig(
        init=init,
        refine=options.refine or ("off" if is_own_choice else "fast"),
        detections=_path(options.detections),
        max_frames=options.max_frames,
        camera=CameraConfig(
            focal_px=options.focal_px,
            fov_deg=options.fov_deg,
            intrinsics=None if options.intrinsics is None else parse_intrinsics(options.intrinsics),
            cameras=_path(options.cameras),
        ),
        detector=config.detector,
        tracker=config.tracker,
        keypoints=config.keypoints,
        network=network_config,
        refinement=config.refinement,
        first_depth_m=options.first_depth_m,
    )
    outputs = OutputOptions(
        overlay=options.overlay,
        glb=options.glb,
        html=options.html,
        plot=options.plot,
        save_verts=options.save_verts,
    )
    return BatchOptions(
        out=Path(options.out),
        pipeline=pipeline,
        outputs=outputs,
        hand_model=hand_model,
        network=network,
        overwrite=options.overwrite,
        fps=options.fps,
        checkpoint=checkpoint,
    )


def _network_config(options: Arguments, config: NetworkConfig) -> NetworkConfig:
    """Put the plain flags over the network's own section."""
    flags = {"device": options.device, "precision": options.precision, "batch_windows": options.batch_windows}
    given = {name: value for name, value in flags.items() if value is not None}
    merged = replace(config, **given)
    choose_device(merged.device)  # a device that is not there is said now, not after the detection
    return merged


def _load_network(path: Path, options: Arguments) -> Network:
    model, info = load_checkpoint(path, backbone_heads=options.backbone_heads, decoder_heads=options.decoder_heads)
    return Network(model, info)


def build_parser() -> ArgumentParser:
    """Return the parser; the sections at the end are the configs of the rooms, field by field."""
    parser = TeachingParser(
        prog="infer.py",
        usage="infer.py VIDEO [VIDEO|FOLDER ...] --out DIR [options]",
        description=DESCRIPTION,
        formatter_class=RawDescriptionHelpFormatter,
        default_env=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="VIDEO", help="videos, folders of videos, folders or globs of pictures")
    add("--out", default="outputs", metavar="DIR", help="where each video gets a folder of its own (default: outputs)")
    add("--demo", action="store_true", help="reconstruct the shipped synthetic clip and compare with its truth")
    add("--images", action="store_true", help="treat each picture alone instead of a folder as one video")
    add("--fps", type=float, default=30.0, help="frame rate of pictures, which carry no time (default: 30)")
    add("--max-frames", type=int, metavar="N", help="stop after N frames of each video")
    add("--overwrite", action="store_true", help="do finished videos again")
    add("--quiet", action="store_true", help="print errors only")
    add("--config", action="config", help="YAML file with any of these options; may be given several times")
    add("--version", action="version", version=f"haptic {haptic.__version__}")

    group = parser.add_argument_group("how hands are found and solved")
    add = group.add_argument
    add("--init", choices=["keypoints", "network"], help="keypoints: solve from detected joints, no network "
        "(default); network: HaPTIC, with --checkpoint (then the default) or the small network that ships")  # fmt: skip
    add("--refine", choices=["off", "fast"], help="fast: second-order refinement of the whole track (default, but "
        "with --checkpoint)")  # fmt: skip
    add("--checkpoint", metavar="FILE", help="weights: our own, or an official HaPTIC or HaMeR .ckpt as downloaded; "
        "without: those that ship, for --init network")  # fmt: skip
    add("--backbone-heads", type=int, default=16, help="attention heads of an official backbone (default: 16)")
    add("--decoder-heads", type=int, default=8, help="attention heads of an official decoder (default: 8)")
    add("--hand-model", metavar="FILE", help="your licensed MANO_RIGHT.pkl or npz; without it the free openhand")
    add("--detections", metavar="FILE", help="JSON with boxes and/or 2D joints from elsewhere (docs/detections.md)")
    add("--device", choices=["auto", "cpu", "cuda", "mps"], help="where the network runs (default: auto)")
    add("--precision", choices=["fp32", "bf16", "fp16"], help="of the network (default: fp32)")
    add("--batch-windows", type=int, help="windows of 8 frames in one network call (default: 4)")

    group = parser.add_argument_group("the camera (one of these; without: the video's metadata, else the diagonal)")
    add = group.add_argument
    add("--focal-px", type=float, help="focal length in pixels of the full image")
    add("--fov-deg", type=float, help="horizontal field of view in degrees")
    add("--intrinsics", metavar="FX,FY,CX,CY", help="all four in pixels")
    add("--cameras", metavar="FILE", help="npz or JSON with per-frame K and/or T_world_cam (docs/detections.md)")
    add("--first-depth-m", type=float, help="known depth of the (first) wrist in its first frame, in metres")

    group = parser.add_argument_group("what is written")
    for name, what in OUTPUT_FLAGS.items():
        group.add_argument(f"--{name}", action=ActionYesNo(yes_prefix="", no_prefix="no-"), default=True, help=what)
    group.add_argument(
        "--save-verts", action="store_true", help="also the 778 mesh vertices of every frame, in the npz"
    )

    for section, config in SECTIONS.items():
        parser.add_class_arguments(config, section, skip=PLAIN_FLAGS.get(section, set()))
    stages = json.loads(json.dumps([asdict(stage) for stage in fast_stages()]))  # plain, so that they can be printed
    parser.set_defaults({"refinement.stages": stages})
    return parser


OUTPUT_FLAGS = {
    "overlay": "overlay.mp4: the mesh over the video beside a view from the side",
    "glb": "scene.glb: skinned animation for Blender and others",
    "html": "scene.html: a page that plays offline",
    "plot": "trajectory.png: paths, depth and error over time",
}
# Fields of a section that are plain flags above.
PLAIN_FLAGS = {
    "keypoints": {"landmark_kind"},
    "network": {"device", "precision", "batch_windows", "first_depth_m"},
}
SECTIONS = {
    "detector": DetectorConfig,
    "tracker": TrackerConfig,
    "keypoints": KeypointInitConfig,
    "network": NetworkConfig,
    "refinement": RefinementConfig,
}


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


def hush_libraries() -> None:
    """Keep the libraries' own chatter out of a user's terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GLOG_minloglevel", "3")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("jsonargparse", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
