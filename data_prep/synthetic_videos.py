"""Make videos of synthetic hands with labels beside them, as a user's own would lie in a folder: to try fine-tuning.

    python -m data_prep.synthetic_videos --out VIDEOS

writes VIDEOS/train/clip-000.mp4, clip-000.json (COCO's format with 3D joints), clip-000.cameras.json, ... and the same
in VIDEOS/val, with other hands, skins, gestures and rooms. The defaults are a camera that the shipped network was not
trained on: a tracking camera on the head, grey, mounted on its side, of a wider view than any in its training data.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from data_prep.own_coco import OwnHand, write_coco
from haptic.data.synthetic.clips import ClipsConfig, View
from haptic.data.synthetic.fast import ClipRenderer, SyntheticClips
from haptic.data.synthetic.scene import scene_camera
from haptic.files import atomic_path, atomic_write
from haptic.hand.model import load_hand_model

SIZE_PX = (640, 480)  # of the scenes that are taken: one camera has one size
CRF = "18"
FOCAL_WIDTHS = 0.4
MAX_FPS = 240
MADE_WITH = "made_with.json"  # beside the videos: those of another camera are no continuation
Look = Literal["grey", "negative", "color"]
LOOKS: tuple[Look, ...] = get_args(Look)


@dataclass(frozen=True)
class OtherCamera:
    """What all videos of a folder are taken with. `turn_deg` is how far the camera is turned about its own axis.

    `negative` is grey with light for dark, roughly as a black-hot thermal camera shows warm hands; no heat is modelled.
    """

    view: View = "egocentric"
    focal_widths: float = FOCAL_WIDTHS
    fps: float = 15.0
    turn_deg: float = 90.0
    look: Look = "grey"
    side_px: int = 640  # the longer one

    def __post_init__(self) -> None:
        if not 1 <= self.fps <= MAX_FPS:
            raise ValueError(f"fps is {self.fps}; expected 1 to {MAX_FPS} frames per second")
        if not 64 <= self.side_px <= 4096:
            raise ValueError(f"side_px is {self.side_px}; expected 64 to 4096 pixels")
        if self.look not in LOOKS:
            raise ValueError(f"look is {self.look!r}; expected one of {', '.join(LOOKS)}")
        if not abs(self.turn_deg) <= 360:
            raise ValueError(f"turn_deg is {self.turn_deg}; expected an angle in degrees")

    def clips_config(self, num_frames: int) -> ClipsConfig:
        """Return what clips are drawn from."""
        focal = (self.focal_widths, self.focal_widths)
        return ClipsConfig(
            num_frames=num_frames, view=self.view, focal_widths=focal, egocentric_focal_widths=focal,
            rates_hz=(self.fps,), crop_px=32, frame_px=self.side_px,
        )  # fmt: skip

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the videos; even, as video codecs want them."""
        width, height = (round(side * self.side_px / max(SIZE_PX)) for side in SIZE_PX)
        return width - width % 2, height - height % 2


def write_videos(
    folder: Path, camera: OtherCamera, *, num_videos: int, num_frames: int, seed: int, hand: Path | None = None
) -> Iterator[str]:
    """Write videos that are not there yet, labels first; give the name of each.

    A seed has its own hands, skins, walls and cloths: folders of two seeds have none in common.

    Raises:
        ValueError: the folder has videos that were made with other options.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made_with = {**asdict(camera), "num_frames": num_frames, "seed": seed, "hand": str(hand or "openhand")}
    note = folder / MADE_WITH
    if note.is_file() and json.loads(note.read_text()) != made_with:
        raise ValueError(f"{folder}: has videos that were made with other options ({MADE_WITH}); choose another --out")
    with atomic_write(note) as file:
        file.write(json.dumps(made_with).encode())
    clips = SyntheticClips(camera.clips_config(num_frames), seed=seed, model=load_hand_model(hand))
    index = -1
    for number in range(num_videos):
        index, renderer = next_clip(clips, camera, index)
        path = folder / f"clip-{number:03d}.mp4"
        if not path.is_file():
            write_video(path, renderer, camera)
        yield path.name


def write_video(path: Path, renderer: ClipRenderer, camera: OtherCamera) -> None:
    """Write a video and what is known of it; the video last, so that a video that is there is complete."""
    scene = renderer.drawing.scene
    num_frames = scene.config.num_frames
    width, height = camera.size_px
    visible = {name: np.full((num_frames, 21), -1, np.int64) for name in renderer.hands}
    with atomic_path(path) as temporary:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(camera.fps).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", {"crf": CRF}
            for frame in range(num_frames):
                picture, _crops, seen = renderer.frame(frame)
                for name, joints in seen.items():
                    visible[name][frame] = joints
                picture = _filmed(picture[:height, :width], camera)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        to_video = np.eye(3)
        ratio = camera.side_px / max(SIZE_PX)
        to_video[:2] = [[ratio, 0, ratio / 2 - 0.5], [0, ratio, ratio / 2 - 0.5]]
        hands = {name: _labels(renderer, name, visible[name], to_video) for name in renderer.hands}
        write_coco(
            path.with_suffix(".json"), hands, width=width, height=height, num_frames=num_frames, with_joints_cam=True
        )
        poses = scene_camera(scene, scene.frame_time_s)
        cameras = {"K": (to_video @ scene.camera.K).tolist(), "T_world_cam": poses.T_world_cam.tolist()}
        with atomic_write(path.with_suffix(".cameras.json")) as file:
            file.write(json.dumps(cameras).encode())


def next_clip(clips: SyntheticClips, camera: OtherCamera, index: int) -> tuple[int, ClipRenderer]:
    """Return the next clip of the camera's size in which a hand is seen all the time."""
    while True:
        index += 1
        renderer = clips.renderer(index)
        scene = renderer.drawing.scene
        if (scene.config.width_px, scene.config.height_px) != SIZE_PX:
            continue
        turned = replace(scene.camera, roll=scene.camera.roll + np.radians(camera.turn_deg))
        drawing = replace(renderer.drawing, scene=replace(scene, camera=turned))
        renderer = ClipRenderer(drawing, clips.config, clips.wardrobe, index=index)
        if any(len(labels.frame_index) == scene.config.num_frames for labels in renderer.hands.values()):
            return index, renderer


def _filmed(picture: UInt8[np.ndarray, "H W 3"], camera: OtherCamera) -> UInt8[np.ndarray, "H W 3"]:
    if camera.look == "color":
        return np.ascontiguousarray(picture)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.repeat((255 - grey if camera.look == "negative" else grey)[..., None], 3, axis=-1)


def _labels(renderer: ClipRenderer, name: str, visible: np.ndarray, to_video: np.ndarray) -> OwnHand:
    labels = renderer.hands[name]
    num_frames = len(visible)
    joints_img, joints_cam = (np.full((num_frames, 21, size), np.nan) for size in (2, 3))
    frames = labels.frame_index.numpy()
    joints_img[frames] = labels.joints_img.double().numpy() @ to_video[:2, :2].T + to_video[:2, 2]
    joints_cam[frames] = labels.joints_cam.double().numpy()
    return OwnHand(
        is_right=bool(labels.is_right),
        joints_img=joints_img,
        joints_img_weight=np.isfinite(joints_img).all(axis=-1).astype(np.float64),
        joints_visible=visible,
        joints_cam=joints_cam,
        box_xyxy=np.full((num_frames, 4), np.nan),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        camera = OtherCamera(
            view=options.view, focal_widths=options.focal, fps=options.fps, turn_deg=options.turn_deg,
            look=options.look, side_px=options.side_px,
        )  # fmt: skip
        if min(options.train, options.val) < 0 or options.frames < 1:
            raise ValueError("--train, --val and --frames: expected numbers of videos, and of frames in each")
        for split, num_videos, seed in (("train", options.train, options.seed), ("val", options.val, options.seed + 1)):
            written = write_videos(
                options.out / split, camera, num_videos=num_videos, num_frames=options.frames, seed=seed,
                hand=options.hand,
            )  # fmt: skip
            for name in written:
                print(f"{options.out / split / name}", flush=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = OtherCamera()
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.synthetic_videos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the videos")
    parser.add_argument("--train", type=int, default=16, help="how many videos to train on")
    parser.add_argument("--val", type=int, default=6, help="how many to validate on, drawn from the next seed")
    parser.add_argument("--frames", type=int, default=48, help="of each video")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--view", choices=("egocentric", "allocentric"), default=defaults.view)
    parser.add_argument("--focal", type=float, default=defaults.focal_widths, help="focal length in image widths")
    parser.add_argument("--fps", type=float, default=defaults.fps)
    parser.add_argument("--turn-deg", type=float, default=defaults.turn_deg, help="the camera about its own axis")
    parser.add_argument(
        "--look", choices=LOOKS, default=defaults.look, help="negative: light for dark, as black-hot thermal cameras"
    )
    parser.add_argument("--side-px", type=int, default=defaults.side_px, help="longer side of the videos")
    parser.add_argument("--hand", type=Path, help="a licensed MANO_RIGHT.pkl instead of the openhand")
    return parser


if __name__ == "__main__":
    sys.exit(main())
