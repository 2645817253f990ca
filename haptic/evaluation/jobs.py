"""What worker processes do: one clip, all methods that are not done yet. Each prediction is a file; so runs resume."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import torch

import haptic
from haptic.data.shards import ShardStore
from haptic.evaluation.baselines import Depth, Method, MethodRunner, parse_method
from haptic.evaluation.clips import ClipPictures, EvalClip
from haptic.evaluation.depth_maps import DEPTH_ANYTHING, ZOEDEPTH, TransformersDepth
from haptic.evaluation.predictions import read_prediction, write_prediction
from haptic.evaluation.uplift import WHAM_FILE, BodyWrists, load_smpl_wrists, read_wham
from haptic.files import atomic_write, sha256_of
from haptic.hand.model import HandModel, load_hand_model
from haptic.inference.network import Device, choose_device
from haptic.models.checkpoint import load_checkpoint
from haptic.perception.detector import HandLandmarker
from haptic.pipeline import Network

# A prediction is made again when any of this code has changed since.
CODE = ("geometry", "hand", "losses", "models", "perception", "inference", "refinement")
OWN_CODE = ("baselines.py", "depth_maps.py", "first_order.py", "observing.py", "uplift.py")


@dataclass(frozen=True)
class MethodFiles:
    """What methods are made of, and where their predictions belong."""

    out: Path
    hand_model: Path | None
    checkpoint: Path | None
    device: Device
    zoedepth: str = ZOEDEPTH  # a folder, or a name on the hub
    depth_anything: str = DEPTH_ANYTHING
    wham: Path | None = None  # SEQUENCE/wham_output.pkl
    smpl: Path | None = None

    def prediction(self, method: str, key: str) -> Path:
        """Return where a method's prediction of a sequence lies."""
        return self.out / "predictions" / folder_name(method) / f"{key}.npz"

    def timing(self, method: str, key: str) -> Path:
        """Return where the seconds lie, apart from what must be the same in every run."""
        return self.out / "timing" / folder_name(method) / f"{key}.json"


@dataclass(frozen=True)
class MethodJob:
    """A clip and the methods to be run on it."""

    clip: EvalClip
    methods: tuple[str, ...]
    files: MethodFiles


def folder_name(method: str) -> str:
    """Return a method's name as a folder's."""
    return method.replace("/", "_")


def is_done(method: str, clip: EvalClip, files: MethodFiles) -> bool:
    """Say whether a prediction made by this code from this data lies there."""
    path = files.prediction(method, clip.key)
    if not (path.is_file() and files.timing(method, clip.key).is_file()):
        return False
    try:
        return read_prediction(path).fingerprint == fingerprint(method, clip, files)
    except ValueError:
        return False


def fingerprint(method: str, clip: EvalClip, files: MethodFiles) -> str:
    """Return what a prediction depends on, in sixteen digits."""
    parts = [method, clip.digest, code_digest(), _hand_model(files.hand_model).name]
    if parse_method(method).needs_network and files.checkpoint is not None:
        parts.append(_checkpoint_digest(files.checkpoint))
    depth = parse_method(method).depth
    if depth in ("zoedepth", "depth-anything"):
        parts += _weights_digest(_depth_source(depth, files))
    if depth == "wham" and files.wham is not None:
        path = files.wham / clip.key / WHAM_FILE
        parts.append(sha256_of(path) if path.is_file() else "none")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of the code that predictions come from."""
    package = Path(haptic.__file__).parent
    paths = [path for room in CODE for path in sorted((package / room).rglob("*.py"))]
    digest = hashlib.sha256()
    for path in [*paths, *(Path(__file__).parent / name for name in OWN_CODE)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def calm_process() -> None:
    """One thread each: the processes are the parallelism, and sums come out alike."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def run_methods(job: MethodJob) -> str:
    """Run the methods over the clip and write their predictions; return the clip's name."""
    calm_process()
    methods = [parse_method(name) for name in job.methods]
    runner = MethodRunner(
        clip=job.clip,
        pictures=ClipPictures(job.clip, _store()),
        hand_model=_hand_model(job.files.hand_model),
        detector=_detector() if any(method.needs_detector for method in methods) else None,
        network=_network(job.files) if any(method.needs_network for method in methods) else None,
        depth_networks={
            method.depth: _depth_network(_depth_source(method.depth, job.files), job.files.device)
            for method in methods
            if method.needs_depth_map
        },
        bodies=_bodies(job) if any(method.depth == "wham" for method in methods) else None,
    )
    for method in methods:
        _run_one(runner, method, job)
    return job.clip.key


def _run_one(runner: MethodRunner, method: Method, job: MethodJob) -> None:
    prediction = runner.predict(method)
    own = [row for row in runner.objectives if row["method"] == method.name]
    report: dict[str, Any] = {
        "seconds": runner.seconds.get(method.name, 0.0),
        "frames": sum(len(hand.labels.frame_index) for hand in job.clip.hands.values()),
        "objectives": own,
        "parts": {name: seconds for name, seconds in runner.seconds.items() if name != method.name},
    }
    timing = job.files.timing(method.name, job.clip.key)
    timing.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(timing) as file:
        file.write(json.dumps(report).encode())
    path = job.files.prediction(method.name, job.clip.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    marked = fingerprint(method.name, job.clip, job.files)
    write_prediction(
        path, type(prediction)(prediction.hands, prediction.where, prediction.fps, marked, prediction.notes)
    )


@lru_cache(maxsize=1)
def _store() -> ShardStore:
    return ShardStore()


@lru_cache(maxsize=1)
def _detector() -> HandLandmarker:
    return HandLandmarker()


@lru_cache(maxsize=2)
def _hand_model(path: Path | None) -> HandModel:
    return load_hand_model(path)


@lru_cache(maxsize=1)
def _checkpoint_digest(path: Path) -> str:
    return sha256_of(path)


def _depth_source(depth: Depth, files: MethodFiles) -> str:
    return files.zoedepth if depth == "zoedepth" else files.depth_anything


@lru_cache(maxsize=2)
def _depth_network(source: str, device: Device) -> TransformersDepth:
    return TransformersDepth(source, device=choose_device(device))


@lru_cache(maxsize=2)
def _weights_digest(source: str) -> tuple[str, ...]:
    """Return a folder's weights by their digests; a name on the hub stands for itself."""
    weights = sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else []
    return tuple(sha256_of(path) for path in weights) or (source,)


def _bodies(job: MethodJob) -> list[BodyWrists]:
    """Return whom WHAM sees in a sequence; no one if it has no file of it."""
    if job.files.wham is None or job.files.smpl is None:
        raise ValueError("methods with WHAM need --wham and --smpl")
    path = job.files.wham / job.clip.key / WHAM_FILE
    return read_wham(path, _smpl_wrists(job.files.smpl)) if path.is_file() else []


@lru_cache(maxsize=1)
def _smpl_wrists(path: Path) -> Any:
    return load_smpl_wrists(path)


@lru_cache(maxsize=1)
def _network(files: MethodFiles) -> Network:
    if files.checkpoint is None:
        raise ValueError("methods with a network need --checkpoint")
    model, info = load_checkpoint(files.checkpoint)
    return Network(model.to(choose_device(files.device)), info)
