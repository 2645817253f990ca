"""Make the shipped clip: two openhands at a desk, seen by a camera worn on the head, and the truth about them.

    python -m data_prep.make_demo_clip [--out checkpoints/demo]

Writes two_hands.mp4 and two_hands_truth.npz (the schema of trajectory.npz, so that one reader reads both). Run again
whenever the openhand changes: the truth names the hand it belongs to, and a test compares.
"""

import argparse
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from haptic.data.synthetic.render import RenderConfig, SceneRenderer
from haptic.data.synthetic.scene import (
    CameraMotion,
    HandMotion,
    Look,
    SceneConfig,
    SyntheticScene,
    scene_camera,
    scene_trajectories,
)
from haptic.export.npz import write_npz
from haptic.files import CLONE_ASSETS, atomic_path, atomic_write
from haptic.geometry.cameras import intrinsics
from haptic.hand.anatomy import REST_ANGLES
from haptic.hand.model import HandModel, load_hand_model
from haptic.records import Reconstruction

WIDTH_PX, HEIGHT_PX, FPS, NUM_FRAMES = 640, 480, 30, 108
# 62 degrees across, a usual phone; the file carries it as phones' files do. Who does not know it gets the image's
# diagonal, 800 px, and hands half as far again.
FOCAL_35MM = 29
FOCAL_PX = FOCAL_35MM / float(np.hypot(36, 24)) * float(np.hypot(WIDTH_PX, HEIGHT_PX))  # 536.2
# A person with slightly long, slender hands; standard deviations of the openhand's shapes.
BETAS = (0.4, 0.5, -0.4, 0.2, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0)
CRF = "17"

# Fingers in degrees from straight: knuckle, middle joint, last joint for index, middle, little, ring finger, then how
# far the fingers are spread (1: a wide fan); the thumb's base (flexion, abduction, twist), knuckle and last joint.
OPEN = (((0, 4, 2), (0, 4, 2), (0, 5, 3), (0, 5, 3)), 1.0, ((-12, 0, 0), 5, 5))
RELAXED = (((14, 24, 12), (18, 28, 14), (24, 32, 18), (22, 30, 16)), 0.35, ((-2, 8, 4), 12, 16))
PINCH = (((42, 50, 26), (22, 26, 14), (12, 16, 8), (16, 20, 10)), 0.35, ((14, 30, 14), 22, 30))
POINT = (((4, 6, 3), (58, 78, 46), (64, 80, 48), (62, 80, 48)), 0.1, ((12, 22, 10), 28, 34))
CUPPED = (((36, 40, 22), (38, 42, 24), (40, 44, 26), (40, 44, 26)), 0.3, ((4, 22, 8), 16, 18))
FIST = (((70, 86, 50), (74, 90, 54), (76, 88, 54), (76, 90, 54)), 0.0, ((16, 18, 12), 34, 40))
SPREAD_DEG = (13.0, 2.0, -20.0, -8.0)

# Per control value: gesture, wrist (x, y, z in metres from between the eyes), supination, wrist flexion and deviation.
# The spline passes near the values and starts and ends at the outer ones.
RIGHT = (
    (OPEN, (0.155, 0.235, 0.37), 22, -14, -2),
    (OPEN, (0.150, 0.225, 0.38), 20, -16, -4),
    (RELAXED, (0.140, 0.225, 0.40), 40, -10, 0),
    (PINCH, (0.130, 0.215, 0.41), 62, -6, 2),
    (PINCH, (0.130, 0.205, 0.40), 66, -8, 2),
    (OPEN, (0.145, 0.195, 0.37), 110, -4, 0),
    (OPEN, (0.150, 0.200, 0.35), 146, 4, -2),
    (CUPPED, (0.150, 0.205, 0.37), 142, 8, -2),
    (OPEN, (0.140, 0.215, 0.43), 52, -2, 0),
    (POINT, (0.125, 0.215, 0.50), 34, -8, 0),
    (POINT, (0.125, 0.215, 0.52), 26, -10, 0),
    (OPEN, (0.140, 0.225, 0.44), 20, -12, -2),
    (OPEN, (0.145, 0.230, 0.40), 20, -14, -2),
    (OPEN, (0.150, 0.235, 0.38), 20, -14, -2),
)
LEFT = (
    (RELAXED, (0.150, 0.245, 0.39), 22, -10, 0),
    (RELAXED, (0.150, 0.240, 0.39), 22, -10, 0),
    (OPEN, (0.150, 0.225, 0.37), 22, -14, -4),
    (OPEN, (0.155, 0.205, 0.34), 146, -2, -2),
    (OPEN, (0.160, 0.200, 0.33), 156, 2, -2),
    (CUPPED, (0.155, 0.205, 0.34), 152, 4, 0),
    (OPEN, (0.150, 0.215, 0.39), 38, -8, -2),
    (RELAXED, (0.145, 0.225, 0.44), 18, -12, 0),
    (FIST, (0.145, 0.225, 0.46), 22, -14, 0),
    (FIST, (0.145, 0.225, 0.46), 22, -14, 0),
    (OPEN, (0.150, 0.220, 0.45), 22, -14, -2),
    (OPEN, (0.150, 0.230, 0.43), 22, -14, -4),
    (RELAXED, (0.150, 0.235, 0.40), 24, -10, 0),
    (OPEN, (0.150, 0.240, 0.38), 24, -12, 0),
)
CAMERA_PLACE = (
    (0, 0, 0.03), (0.02, -0.01, 0.0), (0.045, -0.02, -0.02), (0.02, 0.0, 0.02), (-0.03, 0.01, 0.04), (-0.04, 0, 0)
)  # fmt: skip
CAMERA_TARGET = (
    (0.0, 0.215, 0.46), (0.01, 0.2, 0.46), (-0.01, 0.205, 0.46), (0.0, 0.22, 0.48), (0.01, 0.21, 0.48), (0, 0.215, 0.46)
)  # fmt: skip
CAMERA_ROLL_DEG = (0.0, 2.0, -1.5, -3.0, 1.0, 2.0)


def demo_scene() -> SyntheticScene:
    """Return the shipped clip's scene."""
    return SyntheticScene(
        config=SceneConfig(width_px=WIDTH_PX, height_px=HEIGHT_PX, fps=FPS, num_frames=NUM_FRAMES),
        camera=CameraMotion(
            K=intrinsics(FOCAL_PX, width=WIDTH_PX, height=HEIGHT_PX).numpy().astype(np.float64),
            place_body=np.array(CAMERA_PLACE),
            target_body=np.array(CAMERA_TARGET),
            roll=np.radians(CAMERA_ROLL_DEG),
        ),
        hands=(_motion(RIGHT, is_right=True), _motion(LEFT, is_right=False)),
        look=Look(
            seed=11,
            skin=0.3,
            redness=0.55,
            sleeve_start_m=0.1,
            light_direction_body=(-0.50, -0.80, -0.33),
            light_softness=0.07,
            light_color=(1.06, 1.0, 0.92),
            ambient_color=(0.44, 0.46, 0.50),
            exposure=1.0,
            noise=0.004,
            desk_height_m=0.46,
        ),
    )


def demo_truth(scene: SyntheticScene, model: HandModel) -> Reconstruction:
    """Return what a perfect reconstruction of the clip would be."""
    camera = scene_camera(scene, scene.frame_time_s)
    return Reconstruction(
        hands=scene_trajectories(scene, model),
        tracks={},
        camera=camera,
        frame_time_s=torch.from_numpy(scene.frame_time_s).float(),
        image_width_px=WIDTH_PX,
        image_height_px=HEIGHT_PX,
        fps=float(FPS),
        hand_model=model.name,
    )


def write_truth(path: Path, renderer: SceneRenderer, model: HandModel) -> None:
    """Write the truth; beyond the schema it says which joints are seen: `<hand>/joints_visible` (T, 21)."""
    scene = renderer.scene
    write_npz(path, demo_truth(scene, model), model)
    with np.load(path, allow_pickle=False) as written:
        arrays = dict(written)
    visible = [renderer.joints_visible(index) for index in range(scene.config.num_frames)]
    for name in scene.hand_names:
        arrays[f"{name}/joints_visible"] = np.stack([joints[name] for joints in visible])
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def _motion(keys: tuple, *, is_right: bool) -> HandMotion:
    gestures, wrists, supination, flexion, deviation = zip(*keys, strict=True)
    return HandMotion(
        is_right=is_right,
        betas=np.array(BETAS),
        wrist_body=np.array(wrists),
        elbow_body=np.array([[0.25, 0.44, 0.03]] * len(keys)),
        supination=np.radians(supination),
        wrist_flexion=np.radians(flexion),
        wrist_deviation=np.radians(deviation),
        angles=np.stack([_angles(gesture) for gesture in gestures]),
    )


def _angles(gesture: tuple) -> np.ndarray:
    """Return a gesture as angles from MANO's zero pose."""
    fingers, spread, (thumb_base, thumb_knuckle, thumb_last) = gesture
    clinical = np.zeros((15, 3))
    for finger, bends in enumerate(fingers):
        clinical[3 * finger : 3 * finger + 3, 0] = bends
        clinical[3 * finger, 1] = spread * SPREAD_DEG[finger]
    clinical[12] = thumb_base
    clinical[13, 0], clinical[14, 0] = thumb_knuckle, thumb_last
    return np.radians(clinical) - REST_ANGLES.numpy()


def write_video(path: Path, renderer: SceneRenderer, num_frames: int) -> None:
    """Render and encode, H.264."""
    # Without this option the mp4 writer drops tags it does not know.
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", options={"movflags": "use_metadata_tags"}) as container,
    ):
        container.metadata["com.apple.quicktime.camera.focal_length.35mm_equivalent"] = str(FOCAL_35MM)
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": CRF, "preset": "veryslow"})
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(renderer.frame(index), format="rgb24")
            container.mux(stream.encode(frame))
            print(f"\rframe {index + 1} of {num_frames}", end="", flush=True)
        container.mux(stream.encode())
    print()


def main() -> None:
    """Write the clip and its truth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=CLONE_ASSETS / "demo")
    out: Path = parser.parse_args().out
    model = load_hand_model(None)
    scene = demo_scene()
    renderer = SceneRenderer(scene, model, RenderConfig(edge_samples=3, shadow_rays=12))
    write_video(out / "two_hands.mp4", renderer, NUM_FRAMES)
    write_truth(out / "two_hands_truth.npz", renderer, model)
    for name in ("two_hands.mp4", "two_hands_truth.npz"):
        print(f"{out / name}: {(out / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
