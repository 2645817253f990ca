"""The `openhand` benchmark's data: fixed synthetic sets, drawn from a seed when they are first wanted.

Clip N of a set is always the same and is a shard of its own, so that several processes can make them and a run that was
broken off goes on. The folder's name holds a digest of the recipe, of the hand and of the code that draws and renders:
none of them can change under a number unnoticed.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import haptic.data.synthetic
from haptic.data.samples import ClipInfo, check_labels, encode_jpeg, labels_to_npz, write_tar
from haptic.data.synthetic.clips import ClipsConfig
from haptic.data.synthetic.fast import ClipRenderer, RenderedClip, SyntheticClips
from haptic.data.synthetic.scene import scene_trajectories
from haptic.hand.model import HandModel, load_hand_model, trajectory_joints

LICENCE = "CC0-1.0"
ATTEMPTS = 25  # drawings from which a clip of a set is chosen; the last is taken if none fits
ATTEMPTS_APART = 1000
NEAR_HANDS_BOX = 1.0  # hands interact when their wrists are no farther apart than this many hand lengths, at least once
HIDDEN_SHARE = 0.5  # of the joints, on average, for heavy occlusion
PROBED_FRAMES = 3
FPS = 30.0
FRAME_PX = 640  # the longer side of whole frames: no picture is taken with more
CROP_PX = 256
HAND_LENGTH_M = 0.18


@dataclass(frozen=True)
class SetRecipe:
    """What a set is drawn from and which drawings it takes."""

    name: str
    number: int  # keys its seed
    what: str
    config: ClipsConfig
    takes: str = "all"  # "all", "near hands" or "hidden joints"


def _config(view: str, **options: object) -> ClipsConfig:
    values = {"rates_hz": (FPS,), "frame_px": FRAME_PX, "crop_px": CROP_PX, "view": view, **options}
    return ClipsConfig(**values)  # type: ignore[arg-type]


SETS = (
    SetRecipe(
        "static", 1, "camera at rest before the person, focal length 2 to 4 image widths",
        _config("allocentric", focal_widths=(2.0, 4.0), static_camera_share=1.0, two_hands_share=0.5),
    ),
    SetRecipe(
        "moving", 2, "moving camera before the person, focal length 0.7 to 2 image widths",
        _config("allocentric", focal_widths=(0.7, 2.0), static_camera_share=0.0, two_hands_share=0.5),
    ),
    SetRecipe(
        "egocentric", 3, "worn camera, focal length 0.5 to 1.1 image widths",
        _config("egocentric", static_camera_share=0.0),
    ),
    SetRecipe(
        "interaction", 4, "two hands whose wrists come within a hand's length of each other",
        _config("either", two_hands_share=1.0, object_share=0.1), takes="near hands",
    ),
    SetRecipe(
        "occlusion", 5, "hands with objects, half of the joints or more hidden on average",
        _config("either", two_hands_share=0.6, object_share=1.0), takes="hidden joints",
    ),
)  # fmt: skip
QUICK_CLIPS = {"static": 3, "moving": 2, "egocentric": 3, "interaction": 2, "occlusion": 2}
QUICK_FRAMES = 32
FULL_CLIPS, FULL_FRAMES = 12, 64


@dataclass(frozen=True)
class OpenhandSize:
    """How many clips of how many frames each set has."""

    clips: dict[str, int]
    num_frames: int


def openhand_size(*, is_quick: bool) -> OpenhandSize:
    """Return 12 clips of 32 frames in all, or 60 of 64."""
    if is_quick:
        return OpenhandSize(QUICK_CLIPS, QUICK_FRAMES)
    return OpenhandSize({recipe.name: FULL_CLIPS for recipe in SETS}, FULL_FRAMES)


@dataclass(frozen=True)
class ClipJob:
    """One clip to be made."""

    recipe: SetRecipe
    clip: int
    seed: int
    path: Path


def clip_jobs(folder: Path, size: OpenhandSize, *, seed: int) -> list[ClipJob]:
    """Return all clips of the benchmark and where each belongs; nothing is made."""
    jobs = []
    for recipe in SETS:
        sized = SetRecipe(
            recipe.name, recipe.number, recipe.what,
            ClipsConfig(**{**vars(recipe.config), "num_frames": size.num_frames}), recipe.takes,
        )  # fmt: skip
        for clip in range(size.clips.get(recipe.name, 0)):
            jobs.append(ClipJob(sized, clip, seed, folder / f"openhand-{recipe.name}-{clip:03d}.tar"))
    return jobs


def recipe_digest(size: OpenhandSize, *, seed: int) -> str:
    """Return eight digits of what is asked for: sets, sizes and seed, not the code that makes it."""
    values = {"sets": [asdict(recipe) for recipe in SETS], "size": asdict(size), "seed": seed}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def data_folder(root: Path, size: OpenhandSize, *, seed: int) -> Path:
    """Return the folder of these clips: by recipe, by hand and by the code that draws and renders."""
    code = hashlib.sha256()
    for path in sorted(Path(haptic.data.synthetic.__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    code.update(load_hand_model().name.encode())
    return root / f"openhand-{recipe_digest(size, seed=seed)}-{code.hexdigest()[:8]}"


_MAKERS: dict[str, SyntheticClips] = {}  # one per process and set: skins and walls are painted once


def make_clip(job: ClipJob) -> None:
    """Draw and render one clip, unless it is there."""
    if job.path.is_file():
        return
    name = f"{job.recipe} {job.seed}"
    if name not in _MAKERS:
        _MAKERS.clear()
        _MAKERS[name] = SyntheticClips(
            job.recipe.config, seed=job.seed * 100 + job.recipe.number, model=load_hand_model()
        )
    clips = _MAKERS[name]
    renderer = _choose(clips, job)
    clip = renderer.clip()
    write_tar(job.path, _members(clip, job, hand_model=clips.model.name))


def _choose(clips: SyntheticClips, job: ClipJob) -> ClipRenderer:
    fits: Callable[[ClipRenderer, HandModel], bool] = {
        "all": _has_hands, "near hands": _has_near_hands, "hidden joints": _has_hidden_joints
    }[job.recipe.takes]  # fmt: skip
    last = None
    for attempt in range(ATTEMPTS):
        renderer = clips.renderer(job.clip * ATTEMPTS_APART + attempt)
        if not _has_hands(renderer, clips.model):
            continue
        last = renderer
        if fits(renderer, clips.model):
            return renderer
    if last is None:
        raise ValueError(f"openhand, set {job.recipe.name}, clip {job.clip}: no drawing shows a hand; report this")
    return last


def _has_hands(renderer: ClipRenderer, _model: HandModel) -> bool:
    """Say whether some hand is in the picture for the whole clip."""
    num_frames = renderer.drawing.scene.config.num_frames
    return any(len(labels.frame_index) == num_frames for labels in renderer.hands.values())


def _has_near_hands(renderer: ClipRenderer, model: HandModel) -> bool:
    if len(renderer.hands) < 2:
        return False
    trajectories = list(scene_trajectories(renderer.drawing.scene, model).values())
    wrists = [trajectory_joints(model, trajectory)[:, 0] for trajectory in trajectories]
    return bool((wrists[0] - wrists[1]).norm(dim=-1).min() < NEAR_HANDS_BOX * HAND_LENGTH_M)


def _has_hidden_joints(renderer: ClipRenderer, _model: HandModel) -> bool:
    num_frames = renderer.drawing.scene.config.num_frames
    frames = np.linspace(0, num_frames - 1, PROBED_FRAMES).round().astype(int)
    shares = [visible.mean() for frame in frames for visible in renderer.frame(int(frame))[2].values()]
    return bool(shares) and float(np.mean(shares)) <= 1 - HIDDEN_SHARE


def _members(clip: RenderedClip, job: ClipJob, *, hand_model: str) -> list[tuple[str, bytes]]:
    """Return the clip as it lies in a shard (docs/shards.md)."""
    key = f"{job.recipe.name}-{job.clip:03d}"
    info = ClipInfo(
        data_set=f"openhand-{job.recipe.name}", licence=LICENCE, hand_model=hand_model, fps=clip.fps,
        num_frames=len(clip.frames), width_px=clip.width_px, height_px=clip.height_px,
        hands={name: len(crops) for name, crops in clip.crops.items()},
        source=f"{job.recipe.what}; seed {job.seed}, drawing {clip.index}",
    )  # fmt: skip
    members = [(f"{key}.json", info.to_json())]
    quality = clip.drawing.film.jpeg_quality
    for name, hand in clip.hands.items():
        check_labels(hand.labels, where=f"{key}, {name}")
        members.append((f"{key}.{name}.npz", labels_to_npz(hand, info)))
        for frame, crop in zip(hand.labels.frame_index.tolist(), clip.crops[name], strict=True):
            members.append((f"{key}.{name}.{frame:04d}.jpg", encode_jpeg(crop, quality=quality)))
    members += [
        (f"{key}.frame.{frame:04d}.jpg", encode_jpeg(picture, quality=quality))
        for frame, picture in enumerate(clip.frames)
    ]
    return members
