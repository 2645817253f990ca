"""What tracks say about hands, laid side by side for the solver: right hands, double precision, one length."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.geometry.cameras import view_rotation
from haptic.hand.mirror import mirror_camera, mirror_params, mirror_track
from haptic.records import HandParams, HandTrack, Record, RecordT, Trajectory

# A joint that lies this far off, as a share of the box, counts once; a better one more.
REFERENCE_SPREAD = 0.05
MIN_BOX_PX = 4.0  # below it a share of the box says nothing


@dataclass(frozen=True)
class Observations(Record):
    """What tracks of right hands are held against; shorter ones are padded to T frames, with all weights zero."""

    joints_img: Float[Tensor, "*tracks T 21 2"]
    joints_img_weight: Float[Tensor, "*tracks T 21"]
    box_side_px: Float[Tensor, "*tracks T"]
    landmarks: Float[Tensor, "*tracks T 21 3"]
    landmarks_weight: Float[Tensor, "*tracks T"]
    time_s: Float[Tensor, "*tracks T"]
    frame_weight: Float[Tensor, "*tracks T"]  # 1 for a frame of the track, observed or filled
    centre_weight: Float[Tensor, "*tracks T"]  # 1 where the frame and both its neighbours are of the track
    K: Float[Tensor, "*tracks T 3 3"]
    T_world_cam: Float[Tensor, "*tracks T 4 4"]
    initial: HandParams

    def frames(self, start: int, stop: int) -> "Observations":
        """Return frames start ... stop - 1 of every track."""
        return _cut(self, start, stop)

    def counting_only(self, start: int, stop: int) -> "Observations":
        """Return the same frames, of which those before `start` and from `stop` on count as neighbours only."""
        inside = torch.zeros_like(self.frame_weight)
        inside[:, start:stop] = 1
        return replace(
            self,
            joints_img_weight=self.joints_img_weight * inside[..., None],
            landmarks_weight=self.landmarks_weight * inside,
            frame_weight=self.frame_weight * inside,
        )


def observe(
    trajectories: list[Trajectory], tracks: list[HandTrack], points: list[Tensor], spread: Float[Tensor, " 21"]
) -> Observations:
    """Lay right hands' tracks side by side; the shorter ones go on with their last frame and no weight.

    `points` are each trajectory's points (T 21 3), which say how large a detector's metric joints should be; `spread`
    is the standard deviation of each joint as a share of the box.
    """
    longest = max(len(track.time_s) for track in tracks)
    ending = [torch.arange(longest).clamp(max=len(track.time_s) - 1) for track in tracks]
    initial = [trajectory.params[index] for trajectory, index in zip(trajectories, ending, strict=True)]
    seen = [track[index] for track, index in zip(tracks, ending, strict=True)]
    cameras = [trajectory.camera[index] for trajectory, index in zip(trajectories, ending, strict=True)]
    time_s = torch.stack([track.time_s for track in seen])
    frame_weight, centre_weight = torch.zeros_like(time_s), torch.zeros_like(time_s)
    for row, track in enumerate(tracks):
        num_frames = len(track.time_s)
        frame_weight[row, :num_frames] = 1
        centre_weight[row, 1 : max(num_frames - 1, 1)] = 1
        time_s[row, num_frames:] += torch.arange(1, longest - num_frames + 1).to(time_s)
    observed = torch.stack([track.observed for track in seen]).to(time_s) * frame_weight
    scaled = [
        track.landmarks
        @ view_rotation(track.box_center_img, camera.K).mT
        * _landmark_scale(own_points, full.landmarks, full.landmarks_weight * full.observed)
        for track, full, camera, own_points in zip(seen, tracks, cameras, points, strict=True)
    ]
    joints_img_weight = torch.stack([track.joints_img_weight for track in seen])
    return Observations(
        joints_img=torch.stack([track.joints_img for track in seen]),
        joints_img_weight=joints_img_weight * observed[..., None] * (REFERENCE_SPREAD / spread).square(),
        box_side_px=torch.stack([track.box_side_px for track in seen]).clamp(min=MIN_BOX_PX),
        landmarks=torch.stack(scaled),
        landmarks_weight=torch.stack([track.landmarks_weight for track in seen]) * observed,
        time_s=time_s,
        frame_weight=frame_weight,
        centre_weight=centre_weight,
        K=torch.stack([camera.K for camera in cameras]),
        T_world_cam=torch.stack([camera.T_world_cam for camera in cameras]),
        initial=HandParams(
            global_orient=torch.stack([params.global_orient for params in initial]),
            hand_pose=torch.stack([params.hand_pose for params in initial]),
            betas=torch.stack([params.betas for params in initial]),
            transl=torch.stack([params.transl for params in initial]),
        ),
    )


def as_right_hand(trajectory: Trajectory, track: HandTrack) -> tuple[Trajectory, HandTrack]:
    """Turn a left hand over; a right one stays."""
    if trajectory.is_right:
        return trajectory, track
    # Any width turns a hand over consistently; with one pixel x becomes -x.
    params, camera = mirror_params(trajectory.params), mirror_camera(trajectory.camera, 1)
    return replace(trajectory, params=params, camera=camera, is_right=~trajectory.is_right), mirror_track(track, 1)


def in_double(record: RecordT) -> RecordT:
    """Return the record with its real numbers in double precision."""

    def doubled(value: Record | Tensor) -> Record | Tensor:
        if isinstance(value, Record):
            return in_double(value)
        return value.double() if value.is_floating_point() else value

    return type(record)(**{name: doubled(value) for name, value in vars(record).items()})


def _landmark_scale(points: Tensor, landmarks: Tensor, weight: Tensor) -> Tensor:
    """Return what brings a detector's metric joints to the hand's size: they know its form, not how large it is."""

    def spread(values: Tensor) -> Tensor:
        return (values - values.mean(-2, keepdim=True)).square().sum((-1, -2)).sqrt()

    known = weight > 0
    if not known.any():
        return points.new_ones(())
    return (spread(points)[known] / spread(landmarks)[known].clamp(min=1e-9)).median()


def _cut(record: RecordT, start: int, stop: int) -> RecordT:
    def cut(value: Record | Tensor) -> Record | Tensor:
        return _cut(value, start, stop) if isinstance(value, Record) else value[:, start:stop]

    return type(record)(**{name: cut(value) for name, value in vars(record).items()})
