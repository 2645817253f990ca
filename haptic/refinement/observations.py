"""What tracks say about hands, laid side by side for the solver: right hands, double precision, one length."""

from collections.abc import Sequence
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


class LongObservations:
    """The same of whole tracks, made run by run when asked for: of a film nothing is copied but its times.

    `pairs` are trajectories and tracks as the camera saw them, in any precision; `landmark_scales` bring each track's
    metric joints to its hand's size; `spread` is the standard deviation of each joint as a share of the box.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Trajectory, HandTrack]],
        landmark_scales: Sequence[Float[Tensor, ""]],
        spread: Float[Tensor, " 21"],
    ) -> None:
        self._pairs, self._landmark_scales, self._spread = pairs, landmark_scales, spread
        lengths = [len(track.time_s) for _, track in pairs]
        longest = max(lengths)
        self.time_s = torch.stack(
            [track.time_s.double()[torch.arange(longest).clamp(max=len(track.time_s) - 1)] for _, track in pairs]
        )
        self.frame_weight, self.centre_weight = torch.zeros_like(self.time_s), torch.zeros_like(self.time_s)
        for row, num_frames in enumerate(lengths):
            self.frame_weight[row, :num_frames] = 1
            self.centre_weight[row, 1 : max(num_frames - 1, 1)] = 1
            self.time_s[row, num_frames:] += torch.arange(1, longest - num_frames + 1)

    def frames(self, start: int, stop: int) -> Observations:
        """Return frames start ... stop - 1 of every track; the shorter ones go on with their last frame, no weight."""
        runs = [_run_of(pair, start, stop) for pair in self._pairs]
        trajectories, tracks = [run[0] for run in runs], [run[1] for run in runs]
        frame_weight = self.frame_weight[:, start:stop]
        observed = torch.stack([track.observed for track in tracks]).to(frame_weight) * frame_weight
        scaled = [
            track.landmarks @ view_rotation(track.box_center_img, trajectory.camera.K).mT * scale
            for trajectory, track, scale in zip(trajectories, tracks, self._landmark_scales, strict=True)
        ]
        joints_img_weight = torch.stack([track.joints_img_weight for track in tracks])
        initial = [trajectory.params for trajectory in trajectories]
        return Observations(
            joints_img=torch.stack([track.joints_img for track in tracks]),
            joints_img_weight=joints_img_weight * observed[..., None] * (REFERENCE_SPREAD / self._spread).square(),
            box_side_px=torch.stack([track.box_side_px for track in tracks]).clamp(min=MIN_BOX_PX),
            landmarks=torch.stack(scaled),
            landmarks_weight=torch.stack([track.landmarks_weight for track in tracks]) * observed,
            time_s=self.time_s[:, start:stop],
            frame_weight=frame_weight,
            centre_weight=self.centre_weight[:, start:stop],
            K=torch.stack([trajectory.camera.K for trajectory in trajectories]),
            T_world_cam=torch.stack([trajectory.camera.T_world_cam for trajectory in trajectories]),
            initial=HandParams(
                global_orient=torch.stack([params.global_orient for params in initial]),
                hand_pose=torch.stack([params.hand_pose for params in initial]),
                betas=torch.stack([params.betas for params in initial]),
                transl=torch.stack([params.transl for params in initial]),
            ),
        )


def observe(
    trajectories: list[Trajectory], tracks: list[HandTrack], points: list[Tensor], spread: Float[Tensor, " 21"]
) -> Observations:
    """Lay tracks side by side, whole; the shorter ones go on with their last frame and no weight.

    `points` are each trajectory's points (T 21 3), which say how large a detector's metric joints should be; `spread`
    is the standard deviation of each joint as a share of the box.
    """
    scales = [landmark_scale(own, track) for own, track in zip(points, tracks, strict=True)]
    whole = LongObservations(list(zip(trajectories, tracks, strict=True)), scales, spread)
    return whole.frames(0, whole.time_s.shape[1])


def _run_of(pair: tuple[Trajectory, HandTrack], start: int, stop: int) -> tuple[Trajectory, HandTrack]:
    """Return frames of one pair as a right hand in double precision; after its end comes its last frame."""
    trajectory, track = pair
    index = torch.arange(start, stop).clamp(max=len(track.time_s) - 1)
    return as_right_hand(in_double(trajectory[index]), in_double(track[index]))


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


def landmark_scale(points: Float[Tensor, "T 21 3"], track: HandTrack) -> Float[Tensor, ""]:
    """Return what brings a detector's metric joints to the hand's size: they know its form, not how large it is."""

    def spread(values: Tensor) -> Tensor:
        return (values - values.mean(-2, keepdim=True)).square().sum((-1, -2)).sqrt()

    known = (track.landmarks_weight > 0) & track.observed
    if not known.any():
        return points.new_ones(())
    return (spread(points)[known] / spread(track.landmarks.to(points))[known].clamp(min=1e-9)).median()


def _cut(record: RecordT, start: int, stop: int) -> RecordT:
    def cut(value: Record | Tensor) -> Record | Tensor:
        return _cut(value, start, stop) if isinstance(value, Record) else value[:, start:stop]

    return type(record)(**{name: cut(value) for name, value in vars(record).items()})
