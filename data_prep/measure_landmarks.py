"""Measure where a hand detector's landmarks sit on the hand: render openhands of known pose, detect, solve for offsets.

    python -m data_prep.measure_landmarks [--views 1500] [--out checkpoints/openhand/hand_landmarker_offsets.npz]

A landmark is taken to lie at its joint plus a constant offset in the frame of one bone, in units of the hand's size
(wrist to middle knuckle). Every view says on which ray it lies; over many views and poses that determines the offset.
What is left is the landmark's spread. Needs mediapipe; takes a few minutes.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from haptic.files import atomic_write, find_asset
from haptic.geometry.cameras import intrinsics, project
from haptic.geometry.raster import RayHits, RayScene, interpolate, render, vertex_normals
from haptic.hand.anatomy import sample_pose
from haptic.hand.joints import JOINT_NAMES, MANO_PARENTS, OPENPOSE_FROM_MANO
from haptic.hand.landmarks import OWN_BONE, hand_size
from haptic.hand.model import HandModel, load_hand_model
from haptic.records import HandParams

IMAGE_PX = 480
FOCAL_PX = 520.0
SKIN_TONES = np.array([[224, 172, 145], [198, 140, 110], [141, 85, 60], [240, 200, 180], [170, 115, 85]], np.float32)
FOREARM_M = 0.22
MEDIAN_OF_RAYLEIGH = 1.1774  # the median distance of a plane normal distribution, in standard deviations
MAX_MISS_SHARE = 0.25  # of the box: farther off on average is another pose or the wrong side, not a landmark's offset


@dataclass(frozen=True)
class Views:
    """Hands whose pose is known, and where the detector saw their landmarks."""

    params: HandParams
    K: torch.Tensor
    landmarks_img: torch.Tensor  # (N, 21, 2)


def main() -> None:
    """Render, detect, solve, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/openhand/hand_landmarker_offsets.npz"))
    options = parser.parse_args()
    model = load_hand_model(None)
    views = collect_views(model, options.views, rng=np.random.default_rng(options.seed))
    offsets, frame_joint, spread, before = solve_offsets(model, views)
    for name, offset, joint, after, without in zip(JOINT_NAMES, offsets, frame_joint, spread, before, strict=True):
        print(
            f"{name:11s} bone {joint:2d} offset {np.round(offset, 3)} spread {after:.3f} (without offset {without:.3f})"
        )
    with atomic_write(options.out) as file:
        np.savez(
            file,
            offset=offsets.astype(np.float32),
            frame_joint=frame_joint,
            spread=spread.astype(np.float32),
            detector=np.array("mediapipe hand_landmarker, full"),
            hand_model=np.array(model.name),
            num_views=np.array(len(views.K)),
        )
    print(f"{options.out}: from {len(views.K)} of {options.views} views")


def collect_views(model: HandModel, num_views: int, *, rng: np.random.Generator) -> Views:
    """Render random hands and keep those the detector found."""
    params = random_params(model, num_views, rng=rng)
    K = intrinsics(FOCAL_PX, width=IMAGE_PX, height=IMAGE_PX)
    with torch.no_grad():
        mesh = model(params)
    detect = make_detector()
    kept, found = [], []
    for index in range(num_views):
        orient = params.global_orient[index].numpy()
        picture = draw(mesh.verts[index].numpy(), model.faces.numpy(), orient, K.numpy(), rng=rng)
        landmarks_img = detect(picture)
        if landmarks_img is None:
            continue
        truth_img = project(mesh.joints[index], K).numpy()
        side_px = np.ptp(truth_img, axis=0).max()
        if np.linalg.norm(landmarks_img - truth_img, axis=-1).mean() < MAX_MISS_SHARE * side_px:
            kept.append(index)
            found.append(landmarks_img)
    return Views(params[torch.tensor(kept)], K.expand(len(kept), 3, 3), torch.from_numpy(np.stack(found)).float())


def random_params(model: HandModel, num: int, *, rng: np.random.Generator) -> HandParams:
    """Draw right hands of all shapes and poses, turned every way, half a metre before the camera."""
    betas = torch.from_numpy(rng.normal(0, 0.8, (num, 10))).float().clamp(-2, 2)
    orient = torch.from_numpy(Rotation.random(num, rng=rng).as_matrix()).float()
    centre = np.stack([rng.uniform(-0.06, 0.06, num), rng.uniform(-0.06, 0.06, num), rng.uniform(0.35, 0.7, num)], -1)
    params = HandParams(orient, sample_pose(num, rng=rng), betas, torch.zeros(num, 3))
    middle = model.joints(params).mean(dim=1)
    return HandParams(orient, params.hand_pose, betas, torch.from_numpy(centre).float() - middle)


def draw(
    verts: np.ndarray, faces: np.ndarray, orient: np.ndarray, K: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Return a picture (H, W, 3) of one hand with a forearm: skin tone, one lamp, blotches, a blurred background."""
    bend = Rotation.from_euler("xyz", rng.normal(0, (10, 12, 25), 3), degrees=True).as_matrix()
    verts, faces = with_forearm(verts, faces, orient @ bend)
    normals = vertex_normals(verts, faces)
    lamp = rng.normal(0, 1, 3) + np.array([0, -0.8, -1.2])
    lamp = (lamp / np.linalg.norm(lamp)).astype(np.float32)
    tone = SKIN_TONES[rng.integers(len(SKIN_TONES))] * rng.uniform(0.85, 1.1)
    blotch = rng.normal(0, 0.035, (len(verts), 1)).astype(np.float32)
    ambient = rng.uniform(0.3, 0.55)

    def shade(hits: RayHits) -> np.ndarray:
        normal = interpolate(hits, faces, normals)
        normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
        facing = np.where(normal[:, 2:] > 0, -1, 1)
        light = np.clip(facing[:, 0] * (normal @ lamp) * 0.5 + 0.5, 0, 1) ** 1.5
        rim = np.clip(-facing[:, 0] * normal[:, 2], 0, 1)  # skin darkens where it turns away
        shade_of = ambient + (1 - ambient) * light * (0.55 + 0.45 * rim)
        return (tone * shade_of[:, None] * (1 + interpolate(hits, faces, blotch))).astype(np.float32)

    picture = render(RayScene(verts, faces), K, width=IMAGE_PX, height=IMAGE_PX, shade=shade, edge_samples=3)
    coarse = rng.uniform(20, 235, (6, 6, 3)).astype(np.float32)
    background = cv2.resize(coarse, (IMAGE_PX, IMAGE_PX), interpolation=cv2.INTER_CUBIC)
    mixed = picture[..., :3] + (1 - picture[..., 3:]) * background + rng.normal(0, 3, background.shape)
    return cv2.GaussianBlur(np.clip(mixed, 0, 255).astype(np.uint8), (3, 3), 0)


def with_forearm(verts: np.ndarray, faces: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mesh with its open wrist drawn out into a forearm that widens towards the elbow.

    `turn` is the hand's rotation followed by the bend of its wrist.
    """
    loop = open_loop(faces)
    along = turn @ np.array([1.0, 0.0, 0.0])  # MANO's rest pose has the forearm towards +x
    centre = verts[loop].mean(axis=0)
    rings = []
    for step in np.linspace(0, 1, 8)[1:]:
        widen = 1 + 0.55 * step
        rings.append(centre + (verts[loop] - centre) * widen + along * FOREARM_M * step)
    first, size = len(verts), len(loop)
    ids = np.concatenate([loop[None], first + np.arange(7 * size).reshape(7, size)])
    a, b = ids[:-1], np.roll(ids, -1, axis=1)[:-1]
    c, d = ids[1:], np.roll(ids, -1, axis=1)[1:]
    tube = np.concatenate([np.stack([b, a, c], -1), np.stack([b, c, d], -1)]).reshape(-1, 3)
    return np.concatenate([verts, *rings]).astype(np.float32), np.concatenate([faces, tube])


def open_loop(faces: np.ndarray) -> np.ndarray:
    """Return the vertices of the mesh's one open rim in order, along its faces' edges."""
    edges = {(a, b) for face in faces for a, b in zip(face, np.roll(face, -1), strict=True)}
    follows = dict(edge for edge in edges if edge[::-1] not in edges)
    loop = [next(iter(follows))]
    while (nxt := follows[loop[-1]]) != loop[0]:
        loop.append(nxt)
    return np.array(loop)


def make_detector():  # noqa: ANN201  # a closure over mediapipe's landmarker
    """Return a function from a picture to the 21 landmarks in pixels, or None where no hand is found."""
    import mediapipe as mp
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    options = vision.HandLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(find_asset("hand_landmarker.task"))),
        running_mode=vision.RunningMode.IMAGE,
        num_hands=1,
        min_hand_detection_confidence=0.4,
    )
    landmarker = vision.HandLandmarker.create_from_options(options)

    def detect(picture: np.ndarray) -> np.ndarray | None:
        answer = landmarker.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(picture)))
        if not answer.hand_landmarks:
            return None
        height, width = picture.shape[:2]
        # MediaPipe counts from the picture's corner; pixel centres are integers here.
        return np.array([[p.x * width - 0.5, p.y * height - 0.5] for p in answer.hand_landmarks[0]])

    return detect


def solve_offsets(model: HandModel, views: Views) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return per landmark: offset (21, 3), the MANO joint whose bone carries it, spread, and spread without offset.

    Spreads are standard deviations in each image axis, as a share of the longer side of the detected landmarks' box,
    by way of the median distance, since some views are plain mistakes of the detector.
    """
    with torch.no_grad():
        joints = model.joints(views.params)
        bones = model.bone_transforms(views.params)[..., :3, :3]
        size = hand_size(model, views.params.betas)
    side_px = (views.landmarks_img.amax(1) - views.landmarks_img.amin(1)).amax(-1)
    offsets, frames, spreads, before = [], [], [], []
    for landmark in range(21):
        own = OWN_BONE[landmark]
        is_tip = OPENPOSE_FROM_MANO[landmark] >= 16
        best = None
        for frame in [own] if own == 0 or is_tip else [own, MANO_PARENTS[own]]:
            offset, miss, plain = _solve_one(
                joints[:, landmark], bones[:, frame], size, views.landmarks_img[:, landmark], views.K, side_px
            )
            if best is None or miss < best[2]:
                best = (offset, frame, miss, plain)
        assert best is not None
        offsets.append(best[0])
        frames.append(best[1])
        spreads.append(best[2])
        before.append(best[3])
    return np.stack(offsets), np.array(frames), np.array(spreads), np.array(before)


def _solve_one(
    joint: torch.Tensor,
    turn: torch.Tensor,
    size: torch.Tensor,
    seen_img: torch.Tensor,
    K: torch.Tensor,
    side: torch.Tensor,
) -> tuple[np.ndarray, float, float]:
    """Solve for one landmark's offset by Gauss-Newton on the share of the box, large misses counting less."""
    offset = torch.zeros(3, dtype=torch.float64)
    joint, turn, size, seen_img, K = (x.double() for x in (joint, turn, size, seen_img, K))

    def residual(offset: torch.Tensor) -> torch.Tensor:
        point = joint + size[:, None] * (turn @ offset)
        return (project(point[:, None], K)[:, 0] - seen_img) / side.double()[:, None]

    plain = float(residual(offset).norm(dim=-1).median()) / MEDIAN_OF_RAYLEIGH
    for _ in range(15):
        miss = residual(offset)
        weight = 1 / (1 + (miss.norm(dim=-1) / 0.04).square()).square()
        jacobian = torch.func.jacfwd(residual)(offset)
        normal = torch.einsum("nri,nrj,n->ij", jacobian, jacobian, weight) + 1e-6 * torch.eye(3)
        offset = offset - torch.linalg.solve(normal, torch.einsum("nri,nr,n->i", jacobian, miss, weight))
    return offset.numpy(), float(residual(offset).norm(dim=-1).median()) / MEDIAN_OF_RAYLEIGH, plain


if __name__ == "__main__":
    main()
