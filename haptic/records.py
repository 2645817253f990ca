"""The vocabulary every room shares: its records, their shapes, frames and units.

Axes       B clips, T frames, J = 21 joints (OpenPose order), V mesh vertices, H x W pixels.
Frames     _cam    the camera of that frame: x right, y down, z forward.
           _world  one frame for the whole video; the first camera unless cameras are given.
           _img    pixels of the full image; the centre of the top-left pixel is (0, 0).
           _crop   the network's crop, [-0.5, 0.5] on both axes.
Units      metres, radians, pixels, seconds. Scalars elsewhere carry theirs: `side_px`, `error_mm`.
Rotations  3 x 3 matrices, absolute (no mean pose). Axis-angle exists in files and at MANO's door only.
Hands      networks and solvers see right hands: `haptic.hand.mirror` turns left ones over on the way in
           and back on the way out. A `HandTrack` and a `Trajectory` are as the camera saw them.
"""

from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

RecordT = TypeVar("RecordT", bound="Record")


@dataclass(frozen=True)
class Record:
    """A bundle of tensors (or smaller records) that travels as one."""

    def to(self: RecordT, device: torch.device | str) -> RecordT:
        """Return the same record on `device`. Lightning calls this on every batch."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __getitem__(self: RecordT, index: int | slice | Tensor) -> RecordT:
        """Return the record with every tensor indexed along its first axis; scalars stay as they are."""

        def pick(value: "Record | Tensor") -> "Record | Tensor":
            return value if isinstance(value, Tensor) and value.ndim == 0 else value[index]

        return type(self)(**{f.name: pick(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class Camera(Record):
    """Where each frame was taken from. `K` is in pixels of the full image."""

    K: Float[Tensor, "*batch 3 3"]
    T_world_cam: Float[Tensor, "*batch 4 4"]


@dataclass(frozen=True)
class HandParams(Record):
    """MANO parameters, under the names MANO gives them; the wrist lies at J0(betas) + transl."""

    global_orient: Float[Tensor, "*batch 3 3"]
    hand_pose: Float[Tensor, "*batch 15 3 3"]
    betas: Float[Tensor, "*batch 10"]
    transl: Float[Tensor, "*batch 3"]


@dataclass(frozen=True)
class HandPrediction(Record):
    """The network's raw answer, per frame, for a right hand.

    `scale` and `shift_crop` are HaMeR's weak camera (s, tx, ty); `depth` is HaPTIC's, in metres, of which only
    differences inside one window carry meaning.
    """

    global_orient: Float[Tensor, "B T 3 3"]
    hand_pose: Float[Tensor, "B T 15 3 3"]
    betas: Float[Tensor, "B T 10"]
    scale: Float[Tensor, "B T"]
    shift_crop: Float[Tensor, "B T 2"]
    depth: Float[Tensor, "B T"]


@dataclass(frozen=True)
class HandMesh(Record):
    """What a hand model makes of `HandParams`, in whichever frame those are."""

    verts: Float[Tensor, "*batch V 3"]
    joints: Float[Tensor, "*batch 21 3"]


@dataclass(frozen=True)
class Clip(Record):
    """What the network sees: T frames of one right hand. A single image is a clip with T = 1."""

    crops: Float[Tensor, "B T 3 H W"]
    frames: Float[Tensor, "B T 3 H W"]
    box_center_img: Float[Tensor, "B T 2"]
    box_side_px: Float[Tensor, "B T"]
    camera: Camera


@dataclass(frozen=True)
class Targets(Record):
    """What is known about a clip. A weight of zero means not known.

    Labels when training; refining reads tracks of the same fields.
    """

    joints_img: Float[Tensor, "B T 21 2"]
    joints_img_weight: Float[Tensor, "B T 21"]
    joints_cam: Float[Tensor, "B T 21 3"]
    joints_cam_weight: Float[Tensor, "B T 21"]
    params: HandParams
    params_weight: Float[Tensor, "B T"]


@dataclass(frozen=True)
class HandTrack(Record):
    """One hand followed through consecutive frames, as a detector saw it.

    Its reason: perception knows pixels and no hand model, so what it hands on is no `Trajectory`, and an untracked
    `Targets` has no handedness, time or box. `frame_index` grows by one. Frames without a detection are filled and
    say so: `observed` is False and the weights are zero. The box is the tight box of the detected joints
    (`box_side_px`: its longer side). `landmarks` are the detector's own metric 3D joints, about their own centre,
    in the axes of a camera that looks at the hand (`view_rotation` turns them into the real one's); zero
    `landmarks_weight` means it gives none.
    """

    frame_index: Int[Tensor, " T"]
    time_s: Float[Tensor, " T"]
    box_center_img: Float[Tensor, "T 2"]
    box_side_px: Float[Tensor, " T"]
    joints_img: Float[Tensor, "T 21 2"]
    joints_img_weight: Float[Tensor, "T 21"]
    landmarks: Float[Tensor, "T 21 3"]
    landmarks_weight: Float[Tensor, " T"]
    confidence: Float[Tensor, " T"]
    observed: Bool[Tensor, " T"]
    is_right: Bool[Tensor, ""]


@dataclass(frozen=True)
class Trajectory(Record):
    """One hand through one video: the answer of inference, refinement and every baseline.

    `params` are in each frame's camera, left hands in MANO_LEFT's convention; `betas` are the same in every frame.
    `camera.T_world_cam` takes them to the world.
    """

    frame_index: Int[Tensor, " T"]
    time_s: Float[Tensor, " T"]
    params: HandParams
    camera: Camera
    confidence: Float[Tensor, " T"]
    observed: Bool[Tensor, " T"]
    is_right: Bool[Tensor, ""]


@dataclass(frozen=True)
class Reconstruction:
    """Everything one video gave: what `reconstruct` returns and every exporter writes.

    Hands are named `right_0`, `left_0`, `right_1`, ... by side and order of appearance; `tracks` has the same names.
    `camera` covers every frame of the video, `frame_time_s` too.
    """

    hands: dict[str, Trajectory]
    tracks: dict[str, HandTrack]
    camera: Camera
    frame_time_s: Float[Tensor, " N"]
    image_width_px: int
    image_height_px: int
    fps: float
    hand_model: str
