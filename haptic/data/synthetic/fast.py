"""Clips for training, fast: only what is stored is rendered, each picture at its own size through its own camera.

A clip's picture is never rendered whole at full size: a small whole frame once, and each hand's crop through the camera
K_crop = A K that sees just that part. Planes behind are warped, not cast; one light casts shadows; skin is looked up.

    clips = SyntheticClips(ClipsConfig(), seed=0, model=load_hand_model(None))
    clip = clips[17]            # the same for ever
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import sparse

from haptic.data.samples import HandLabels, StoredHand, labels_from_trajectory
from haptic.data.synthetic.backdrop import BackdropBank, Plane, place_plane, plane_picture, shadow_grid
from haptic.data.synthetic.clips import ClipDrawing, ClipsConfig, draw_clip, seen_frames
from haptic.data.synthetic.film import Developer, smear
from haptic.data.synthetic.gestures import GestureBook
from haptic.data.synthetic.limbs import LimbTopology, coarse_limb_verts, limb_topology
from haptic.data.synthetic.objects import make_mesh
from haptic.data.synthetic.render import (
    JOINT_DEPTH_M,
    OCCLUSION_REACH_M,
    RAY_START_M,
    SKIN_GLOSS,
    SKIN_WRAP,
    SLEEVE_OFFSET_M,
)
from haptic.data.synthetic.room import make_ellipsoid
from haptic.data.synthetic.scene import HandMotion, arm_points_body, camera_T_body_cam, scene_trajectories
from haptic.data.synthetic.textures import Texture, make_texture, paint_skin, skin_places
from haptic.geometry.cameras import project
from haptic.geometry.raster import (
    RayHits,
    RayScene,
    interpolate,
    join_meshes,
    silhouette,
    vertex_normals,
)
from haptic.geometry.transforms import apply_transform, invert_transform
from haptic.hand.mirror import mirror_params, mirror_points
from haptic.hand.model import HandModel
from haptic.records import Trajectory

NUM_SKINS = 40
OPENNESS_RAYS = 6
EDGE_SAMPLES = 2
SHADOW_STEP_PX = 4
BLOCKED_LIGHT = 0.12  # of the key light's share on a desk in shadow
SOFT_SHADOW_PX = 5
NEAR_M = 1e-3


@dataclass(frozen=True)
class RenderedClip:
    """A clip's pictures and labels. Hands are labelled in the frames in which they are seen, and have crops there.

    `image` pixels, of which labels speak, are those of a picture of `width_px` x `height_px` that was never made.
    """

    index: int
    drawing: ClipDrawing
    fps: float
    width_px: int
    height_px: int
    frames: UInt8[np.ndarray, "T h w 3"]
    crops: dict[str, UInt8[np.ndarray, "_t S S 3"]]
    hands: dict[str, StoredHand]


class SyntheticClips:
    """Endless clips by number. Equal seeds, numbers and configs give equal clips, whatever was made before."""

    def __init__(self, config: ClipsConfig, *, seed: int, model: HandModel) -> None:
        self.config, self.seed, self.model = config, seed, model
        self.wardrobe = Wardrobe(config, seed, model)
        self._book = GestureBook(model)

    def __getitem__(self, index: int) -> RenderedClip:
        """Return a clip."""
        return self.renderer(index).clip()

    def __iter__(self) -> Iterator[RenderedClip]:
        """Go through all clips, which never ends."""
        index = 0
        while True:
            yield self[index]
            index += 1

    def renderer(self, index: int) -> "ClipRenderer":
        """Return what renders one clip, frame by frame."""
        drawing = draw_clip(self.config, self.model, self._book, rng=np.random.default_rng([self.seed, index]))
        return ClipRenderer(drawing, self.config, self.wardrobe, index=index)


class Wardrobe:
    """What clips share: the hand, its skins, backgrounds, cloth; each painted when it is first wanted."""

    def __init__(self, config: ClipsConfig, seed: int, model: HandModel) -> None:
        self.model = model
        self.topology: LimbTopology = limb_topology(model)
        self.backdrops = BackdropBank(seed, folder=config.backgrounds)
        self.skin = lru_cache(maxsize=NUM_SKINS)(self._paint_skin)
        self._seed = seed
        num_coarse = int(self.topology.coarse_faces.max()) + 1
        self.rest = self.topology.rest[:num_coarse]
        self.faces = self.topology.coarse_faces
        self.rest_normals = vertex_normals(self.rest, self.faces)
        edges = np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]])
        ones = np.ones(len(edges), np.float32)
        links = sparse.csr_matrix((ones, (edges[:, 0], edges[:, 1])), (num_coarse, num_coarse))
        links = ((links + links.T) > 0).astype(np.float32) + sparse.eye(num_coarse, dtype=np.float32)
        self.neighbour_mean = sparse.diags(1 / np.asarray(links.sum(axis=1)).ravel()) @ links

    def _paint_skin(self, number: int) -> tuple[Texture, Texture]:
        rng = np.random.default_rng([self._seed, 4, number])
        skin, redness = (number + 0.5) / NUM_SKINS, rng.uniform()
        palm, back = paint_skin(self.model, skin=skin, redness=redness, rng=rng)
        # Half a millimetre is finer than any crop shows.
        return Texture(palm.levels[1:], palm.texel * 2), Texture(back.levels[1:], back.texel * 2)


@dataclass(frozen=True)
class _Material:
    textures: tuple[Texture, ...]
    gain: Float[np.ndarray, " 3"]
    gloss: float
    is_skin: bool = False


@dataclass(frozen=True)
class _Part:
    """A mesh in the camera's frame; `values` per vertex: normal, place on the texture, palm's share, openness."""

    verts: Float32[np.ndarray, "V 3"]
    faces: np.ndarray
    values: Float32[np.ndarray, "V 7"]
    material: _Material


@dataclass(frozen=True)
class _View:
    """A camera for one picture: K, its size, how many of its pixels one of the crop's is, what lies in the image."""

    K: Float[np.ndarray, "3 3"]
    width: int
    height: int
    sharpness_px: float
    inside: tuple[slice, slice]
    hand: int | None  # whose motion blurs the foreground; None: the mean of all


class ClipRenderer:
    """Renders one clip."""

    def __init__(self, drawing: ClipDrawing, config: ClipsConfig, wardrobe: Wardrobe, *, index: int) -> None:
        self.drawing, self._config, self._wardrobe, self._index = drawing, config, wardrobe, index
        scene = drawing.scene
        self._size = (scene.config.width_px, scene.config.height_px)
        rng = np.random.default_rng([scene.look.seed, 1])
        time_s = scene.frame_time_s
        self._T_cam_body = invert_transform(camera_T_body_cam(scene, time_s)).numpy().astype(np.float64)
        self._dress(rng)
        largest_px = max(config.crop_px, config.frame_px)
        self._developer = Developer(drawing.film, exposure=scene.look.exposure, largest_px=largest_px, rng=rng)
        self._openness_rays = _unit(rng.standard_normal((OPENNESS_RAYS, 3))).astype(np.float32)
        self._trajectories = scene_trajectories(scene, wardrobe.model)
        self._hand_verts, self._joints_cam, self._joints_img, self._orientation = [], [], [], []
        self._arms = []
        for hand, trajectory in zip(scene.hands, self._trajectories.values(), strict=True):
            params = trajectory.params if hand.is_right else mirror_params(trajectory.params)
            with torch.no_grad():
                mesh = wardrobe.model(params)
            joints = mesh.joints if hand.is_right else mirror_points(mesh.joints)
            self._hand_verts.append(mesh.verts.numpy())  # of a right hand, mirrored when it is placed
            self._orientation.append(params.global_orient.numpy())
            self._joints_cam.append(joints)
            self._joints_img.append(project(joints, trajectory.camera.K))
            self._arms.append(self._arm_points(hand, time_s))
        self._labels = self._label()

    @property
    def hands(self) -> dict[str, HandLabels]:
        """Labels of the hands that are seen, without visibility (which is found while rendering)."""
        return {name: labels for name, (labels, _scale, _offset) in self._labels.items()}

    def clip(self) -> RenderedClip:
        """Render everything."""
        num_frames = self.drawing.scene.config.num_frames
        crops: dict[str, list[np.ndarray]] = {name: [] for name in self._labels}
        visible: dict[str, list[np.ndarray]] = {name: [] for name in self._labels}
        frames = []
        for frame in range(num_frames):
            picture, frame_crops, frame_visible = self.frame(frame)
            frames.append(picture)
            for name, crop in frame_crops.items():
                crops[name].append(crop)
                visible[name].append(frame_visible[name])
        hands = {
            name: StoredHand(
                replace(labels, joints_visible=torch.from_numpy(np.stack(visible[name])).long()), scale, offset
            )
            for name, (labels, scale, offset) in self._labels.items()
        }
        return RenderedClip(
            index=self._index,
            drawing=self.drawing,
            fps=self.drawing.scene.config.fps,
            width_px=self._size[0],
            height_px=self._size[1],
            frames=np.stack(frames),
            crops={name: np.stack(pictures) for name, pictures in crops.items()},
            hands=hands,
        )

    def frame(
        self, frame: int
    ) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, UInt8[np.ndarray, "S S 3"]], dict[str, Bool[np.ndarray, " 21"]]]:
        """Return the small whole frame, the crops of the hands that are labelled in it, and which joints are seen."""
        rng = np.random.default_rng([self.drawing.scene.look.seed, 2, frame])
        parts, mesh_hand = self._parts(frame)
        joined = join_meshes([(part.verts, part.faces) for part in parts])
        solid = RayScene(joined.verts, joined.faces)
        parts = self._with_openness(parts, solid)
        picture = _Picture(self, frame, parts, joined.faces, joined.mesh_index, solid, rng)
        whole = self._developed(picture, self._frame_view(), frame, rng)
        crops, visible = {}, {}
        for name, (labels, scale, offset) in self._labels.items():
            place = frame - int(labels.frame_index[0])
            if 0 <= place < len(labels.frame_index):
                hand = self.drawing.scene.hand_names.index(name)
                view = self._crop_view(hand, float(scale[place]), offset[place])
                crops[name] = self._developed(picture, view, frame, rng)
                visible[name] = self._visible(hand, frame, solid, mesh_hand[joined.mesh_index])
        return whole, crops, visible

    def _label(self) -> dict[str, tuple[HandLabels, np.ndarray, np.ndarray]]:
        """Return, per hand that is seen for long enough, its labels and where its crops are cut."""
        labelled = {}
        for (name, trajectory), joints_cam, joints_img in zip(
            self._trajectories.items(), self._joints_cam, self._joints_img, strict=True
        ):
            seen = seen_frames(joints_img, joints_cam[..., 2], self._size)
            if seen.stop - seen.start < min(8, len(joints_cam)):
                continue
            part: Trajectory = trajectory[seen]
            labels = labels_from_trajectory(part, joints_cam[seen], expansion=self._config.expansion)
            scale = self._config.crop_px / (self._config.crop_reach * labels.box_side_px.double().numpy())
            offset = self._config.crop_px / 2 - scale[:, None] * labels.box_center_img.double().numpy()
            labelled[name] = (labels, scale, offset)
        return labelled

    def _dress(self, rng: np.random.Generator) -> None:
        """Choose skin, cloth, wall and desk, and make what stands still."""
        drawing, wardrobe = self.drawing, self._wardrobe
        look, bank = drawing.scene.look, wardrobe.backdrops
        skin = wardrobe.skin(min(int(look.skin * NUM_SKINS), NUM_SKINS - 1))
        shirt = _Material((bank.cloth(rng=rng),), _color_gain(rng), 0.02)
        self._skin = _Material(
            skin, np.array(drawing.skin_gain), SKIN_GLOSS * float(rng.uniform(0.3, 1.4)), is_skin=True
        )
        self._shirt = shirt
        self._sleeve_fold = float(rng.uniform(120, 260))
        middle = drawing.scene.config.num_frames // 2
        rotation, translation = self._T_cam_body[middle][:3, :3], self._T_cam_body[middle][:3, 3]
        view_m = drawing.wall_distance_m / drawing.focal_widths
        forward, right, down = rotation[2], rotation[0], rotation[1]
        eye = -rotation.T @ translation
        tilt = rng.normal(0, 0.2, 2)
        across = _unit(right + tilt[0] * forward)
        along = _unit(down + tilt[1] * forward)
        along = _unit(along - (along @ across) * across)
        start = eye + drawing.wall_distance_m * forward + rng.normal(0, 1, 3)
        self._wall = Plane(start, across, along, bank.wall(view_m=view_m, rng=rng), _color_gain(rng))
        self._wall_light = float(np.exp(rng.normal(-0.35, 0.45)))
        self._desk: Plane | None = None
        if drawing.has_desk:
            turn = rng.normal(0, 0.1)
            self._desk = Plane(
                np.array([0.0, look.desk_height_m, 0.55]),
                np.array([np.cos(turn), 0, np.sin(turn)]),
                np.array([np.sin(turn), 0, -np.cos(turn)]),
                bank.desk(rng=rng),
                _color_gain(rng),
                ((-float(rng.uniform(0.45, 1.2)), float(rng.uniform(0.45, 1.2))),
                 (-float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.25, 0.42)))),
            )  # fmt: skip
        self._things = []
        for thing in drawing.standing:
            mesh = make_mesh(thing.shape)
            turned = np.array(
                [[np.cos(thing.turn), 0, np.sin(thing.turn)], [0, 1, 0], [-np.sin(thing.turn), 0, np.cos(thing.turn)]]
            )
            material = _Material((bank.cloth(rng=rng),), _color_gain(rng), float(rng.uniform(0.02, 0.5)))
            self._things.append(
                (mesh.verts @ turned.T + thing.place_body, mesh.faces, mesh.normals @ turned.T, mesh.places, material)
            )
        if drawing.has_person:
            self._things += self._person(skin, shirt, rng)
        self._held = [
            (
                thing,
                make_mesh(thing.shape),
                _Material((bank.cloth(rng=rng),), _color_gain(rng), float(rng.uniform(0.02, 0.6))),
            )
            for thing in drawing.held
        ]

    def _person(self, skin: tuple[Texture, Texture], shirt: _Material, rng: np.random.Generator) -> list[tuple]:
        """Return trunk, neck, head and hair of whom the hands belong to."""
        tone = np.asarray(skin[1].levels[-1]).mean(axis=(0, 1)) * np.array(self.drawing.skin_gain)
        plain = (make_texture(np.ones((16, 16, 3)), 0.1),)
        face = _Material(plain, tone, 0.1, is_skin=True)
        hair = _Material(plain, np.array([0.05, 0.03, 0.02]) * np.exp(rng.uniform(-1, 2.3)), 0.1)
        things = []
        for centre, radii, material in (
            ((0, 0.55, -0.14), (0.21, 0.36, 0.12), shirt),
            ((0, 0.02, -0.09), (0.074, 0.115, 0.09), face),
            ((0, -0.03, -0.11), (0.083, 0.09, 0.09), hair),
            ((0, 0.15, -0.11), (0.055, 0.10, 0.055), face),
        ):
            surface = make_ellipsoid(centre, radii, plain[0], rows=10, columns=16)
            things.append((surface.verts, surface.faces, surface.normals, surface.places, material))
        return things

    def _arm_points(self, hand: HandMotion, time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return elbow and shoulder in each frame's camera, of the right arm."""
        T_cam_body = torch.from_numpy(self._T_cam_body).float()
        points = [
            apply_transform(T_cam_body, point[:, None])[:, 0]
            for point in arm_points_body(self.drawing.scene, hand, time_s)
        ]
        elbow, shoulder = points if hand.is_right else [mirror_points(point) for point in points]
        return elbow.numpy(), shoulder.numpy()

    def _parts(self, frame: int) -> tuple[list[_Part], np.ndarray]:
        """Return the limbs first, then all else, and which hand each part is (-1: none)."""
        wardrobe = self._wardrobe
        rest = wardrobe.rest
        sleeve_from = rest[wardrobe.topology.wrist_loop, 0].max() + self.drawing.scene.look.sleeve_start_m
        in_sleeve = rest[:, 0] > sleeve_from
        palm_share = np.clip(0.5 - 1.8 * wardrobe.rest_normals[:, 1], 0, 1)
        folds = SLEEVE_OFFSET_M * (1 + 0.25 * np.sin(self._sleeve_fold * rest[:, 0] + 100 * rest[:, 1]))
        limbs, rest_of = [], []
        placed = {}
        for number, hand in enumerate(self.drawing.scene.hands):
            elbow, shoulder = self._arms[number]
            verts = coarse_limb_verts(
                wardrobe.topology,
                self._hand_verts[number][frame],
                orientation=self._orientation[number][frame],
                elbow=elbow[frame],
                shoulder=shoulder[frame],
            )
            faces = wardrobe.faces
            placed[number] = verts
            if not hand.is_right:
                verts, faces = verts * np.array([-1, 1, 1], np.float32), faces[:, [0, 2, 1]]
            normals = vertex_normals(verts, faces)
            values = np.concatenate([normals, skin_places(rest), palm_share[:, None], np.ones((len(rest), 1))], axis=1)
            limbs.append(_Part(verts, faces, values.astype(np.float32), self._skin))
            sleeve_faces = faces[in_sleeve[faces].all(axis=1)]
            if len(sleeve_faces):
                sleeve = (verts + normals * folds[:, None]).astype(np.float32)
                values = np.concatenate([vertex_normals(sleeve, sleeve_faces), values[:, 3:]], axis=1)
                rest_of.append(_Part(sleeve, sleeve_faces, values.astype(np.float32), self._shirt))
        for thing, mesh, material in self._held:
            orientation = self._orientation[thing.hand][frame].astype(np.float64)
            hand_joints = self._joints_cam[thing.hand][frame, 0].numpy().astype(np.float64)
            sign = 1 if self.drawing.scene.hands[thing.hand].is_right else -1
            verts = (mesh.verts @ thing.rotation.T + thing.place) @ orientation.T * [sign, 1, 1] + hand_joints
            normals = mesh.normals @ thing.rotation.T @ orientation.T * [sign, 1, 1]
            faces = mesh.faces if sign > 0 else mesh.faces[:, [0, 2, 1]]
            rest_of.append(_part(verts, faces, normals, mesh.places, material))
        rotation, translation = self._T_cam_body[frame][:3, :3], self._T_cam_body[frame][:3, 3]
        for verts, faces, normals, places, material in self._things:
            rest_of.append(_part(verts @ rotation.T + translation, faces, normals @ rotation.T, places, material))
        return limbs + rest_of, np.array(list(range(len(limbs))) + [-1] * len(rest_of))

    def _with_openness(self, parts: list[_Part], solid: RayScene) -> list[_Part]:
        """Find the share of nearby directions that are free about each of the hands' vertices, smoothed."""
        num_hand = self._wardrobe.topology.num_hand_verts
        opened = list(parts)
        for number in range(len(self.drawing.scene.hands)):
            part = parts[number]
            normals = part.values[:num_hand, :3]
            rays = _unit(self._openness_rays[None] + 1.05 * normals[:, None]).reshape(-1, 3)
            starts = np.repeat(part.verts[:num_hand] + RAY_START_M * normals, OPENNESS_RAYS, axis=0)
            depth = solid.first_hits(starts, rays).depth.reshape(num_hand, OPENNESS_RAYS)
            values = part.values.copy()
            values[:num_hand, 6] = np.minimum(depth / OCCLUSION_REACH_M, 1).mean(axis=1)
            values[:, 6] = self._wardrobe.neighbour_mean @ values[:, 6]
            opened[number] = replace(part, values=values)
        return opened

    def _visible(self, hand: int, frame: int, solid: RayScene, face_hand: np.ndarray) -> Bool[np.ndarray, " 21"]:
        """Say which joints are in the picture and hidden by nothing but their own flesh."""
        joints_cam, joints_img = self._joints_cam[hand][frame].numpy(), self._joints_img[hand][frame].numpy()
        hits = solid.cast_pixels(joints_img, self.drawing.scene.camera.K)
        is_own = hits.is_hit & (face_hand[np.maximum(hits.face_index, 0)] == hand)
        inside = ((joints_img >= -0.5) & (joints_img <= np.array(self._size) - 0.5)).all(axis=-1)
        return is_own & (joints_cam[:, 2] - hits.depth < JOINT_DEPTH_M) & inside & (joints_cam[:, 2] > 0)

    def _frame_view(self) -> _View:
        ratio = self._config.frame_px / max(self._size)
        width, height = (max(1, round(side * ratio)) for side in self._size)
        scale = np.array([width / self._size[0], height / self._size[1]])
        to_view = np.array([[scale[0], 0, scale[0] / 2 - 0.5], [0, scale[1], scale[1] / 2 - 0.5], [0, 0, 1]])
        K = to_view @ self.drawing.scene.camera.K
        return _View(K, width, height, 0.5, np.s_[0:height, 0:width], None)

    def _crop_view(self, hand: int, scale: float, offset: np.ndarray) -> _View:
        to_view = np.array([[scale, 0, offset[0]], [0, scale, offset[1]], [0, 0, 1]])
        side = self._config.crop_px
        # Pixels of the crop whose place lies in the image: the others are black, as if they had been cut out of it.
        left, top = np.clip(np.ceil(scale * -0.5 + offset), 0, side).astype(int).tolist()
        last = np.floor(scale * (np.array(self._size) - 0.5) + offset)
        right, bottom = np.clip(last + 1, 0, side).astype(int).tolist()
        inside = np.s_[top:bottom, left:right]
        return _View(to_view @ self.drawing.scene.camera.K, side, side, 1.0, inside, hand)

    def _developed(self, picture: "_Picture", view: _View, frame: int, rng: np.random.Generator) -> np.ndarray:
        rows, columns = view.inside
        seen = np.zeros((view.height, view.width, 3), np.uint8)
        if rows.stop > rows.start and columns.stop > columns.start:
            shift = np.array([[1, 0, -columns.start], [0, 1, -rows.start], [0, 0, 1]])
            part = replace(view, K=shift @ view.K, width=columns.stop - columns.start, height=rows.stop - rows.start)
            light = picture.light(part, *self._ways_px(part, frame))
            seen[rows, columns] = self._developer.develop(light, sharpness_px=view.sharpness_px, rng=rng)
        return seen

    def _ways_px(self, view: _View, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return how far hand and background move in the picture while it is exposed."""
        exposed = self.drawing.film.exposure_s * self.drawing.scene.config.fps  # in frames
        num_frames = self.drawing.scene.config.num_frames
        if exposed == 0 or num_frames < 2:
            return np.zeros(2), np.zeros(2)
        before, after = max(frame - 1, 0), min(frame + 1, num_frames - 1)
        share = exposed / (after - before)
        scale = view.K[0, 0] / self.drawing.scene.camera.K[0, 0]
        chosen = range(len(self._joints_img)) if view.hand is None else [view.hand]
        hand_way = np.mean(
            [(self._joints_img[n][after] - self._joints_img[n][before]).mean(dim=0).numpy() for n in chosen], axis=0
        )
        far = []
        for at in (before, after):
            point = self._T_cam_body[at][:3, :3] @ self._wall_middle + self._T_cam_body[at][:3, 3]
            pixel = view.K @ point
            far.append(pixel[:2] / max(pixel[2], 1e-3))
        return hand_way * scale * share, (far[1] - far[0]) * share

    @property
    def _wall_middle(self) -> np.ndarray:
        middle = self.drawing.scene.config.num_frames // 2
        rotation, translation = self._T_cam_body[middle][:3, :3], self._T_cam_body[middle][:3, 3]
        return rotation.T @ (np.array([0, 0, self.drawing.wall_distance_m]) - translation)


@dataclass(frozen=True)
class _Met:
    """The surfaces that N rays met, in the camera's frame."""

    points: Float32[np.ndarray, "N 3"]
    normals: Float32[np.ndarray, "N 3"]
    toward_eye: Float32[np.ndarray, "N 3"]
    places: Float32[np.ndarray, "N 2"]
    palm_share: Float32[np.ndarray, "N 1"]
    openness: Float32[np.ndarray, "N 1"]
    mesh_index: np.ndarray
    footprint_m: Float32[np.ndarray, " N"]


class _Picture:
    """One moment of a clip, ready to be seen by several cameras at the same place."""

    def __init__(
        self,
        renderer: ClipRenderer,
        frame: int,
        parts: list[_Part],
        faces: np.ndarray,
        mesh_index: np.ndarray,
        solid: RayScene,
        rng: np.random.Generator,
    ) -> None:
        drawing = renderer.drawing
        self._look, self._film = drawing.scene.look, drawing.film
        self._parts, self._faces, self._mesh_index, self._solid, self._rng = parts, faces, mesh_index, solid, rng
        self._values = np.concatenate([part.values for part in parts])
        T_cam_body = renderer._T_cam_body[frame]
        self._up = -T_cam_body[:3, 1].astype(np.float32)
        self._lights = [
            (_unit(T_cam_body[:3, :3] @ np.array(light.direction_body)).astype(np.float32),
             np.array(light.color, np.float32), light.casts_shadow)
            for light in drawing.lights
        ]  # fmt: skip
        self._wall = place_plane(renderer._wall, T_cam_body)
        self._wall_light = renderer._wall_light
        self._desk = None if renderer._desk is None else place_plane(renderer._desk, T_cam_body)

    def light(self, view: _View, hand_way: np.ndarray, far_way: np.ndarray) -> Float32[np.ndarray, "H W 3"]:
        """Return the light that falls on each pixel."""
        behind = smear(self._behind(view), far_way)
        hits = self._cast(view)
        flat = hits.reshape(-1)
        found = np.flatnonzero(flat.face_index >= 0)
        front = np.zeros((view.height * view.width, 4), np.float32)
        if len(found):
            pixels = np.stack([found % view.width, found // view.width], axis=-1).astype(np.float32)
            met = self._met(flat[found], pixels, view)
            shared = self._lit(met, view, found)
            front[found, :3] = self._shade(met, [lit.ravel()[found] for lit in shared])
            front[found, 3] = 1
            self._smooth_edges(front, hits, view, shared)
        front = smear(front.reshape(view.height, view.width, 4), hand_way)
        return front[..., :3] + (1 - front[..., 3:]) * behind

    def _smooth_edges(self, front: np.ndarray, hits: RayHits, view: _View, shared: list[np.ndarray]) -> None:
        """Average several rays where a surface breaks off; what falls in shadow is known from the pixel's own ray."""
        edge = np.flatnonzero(silhouette(hits, depth_jump=0.02))
        if not len(edge):
            return
        offsets = (np.arange(EDGE_SAMPLES) + 0.5) / EDGE_SAMPLES - 0.5
        offsets = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(1, -1, 2)
        centres = np.stack([edge % view.width, edge // view.width], axis=-1)[:, None]
        pixels = (centres + offsets).reshape(-1, 2).astype(np.float32)
        hits = self._solid.cast_pixels(pixels, view.K)
        found = np.flatnonzero(hits.face_index >= 0)
        samples = np.zeros((len(pixels), 4), np.float32)
        owner = np.repeat(edge, offsets.shape[1])[found]
        met = self._met(hits[found], pixels[found], view)
        samples[found, :3] = self._shade(met, [lit.ravel()[owner] for lit in shared])
        samples[found, 3] = 1
        front[edge] = samples.reshape(len(edge), -1, 4).mean(axis=1)

    def _cast(self, view: _View) -> RayHits:
        """Return what each pixel sees; rays are cast where a part's outline box is."""
        covered = np.zeros((view.height, view.width), bool)
        for part in self._parts:
            covered[_box_of(part.verts, view)] = True
        asked = np.flatnonzero(covered)
        pixels = np.stack([asked % view.width, asked // view.width], axis=-1).astype(np.float32)
        met = self._solid.cast_pixels(pixels, view.K)
        depth = np.full(covered.size, np.inf, np.float32)
        face_index = np.full(covered.size, -1, np.int32)
        barycentric = np.zeros((covered.size, 3), np.float32)
        depth[asked], face_index[asked], barycentric[asked] = met.depth, met.face_index, met.barycentric
        return RayHits(depth, face_index, barycentric).reshape(view.height, view.width)

    def _met(self, hits: RayHits, pixels: np.ndarray, view: _View) -> _Met:
        """Return what shading needs to know of the surfaces that rays met."""
        values = interpolate(hits, self._faces, self._values)
        inverse = np.linalg.inv(view.K).astype(np.float32)
        rays = pixels @ inverse[:, :2].T + inverse[:, 2]
        normals, toward_eye = _unit(values[:, :3]), -_unit(rays)
        normals[np.einsum("nc,nc->n", normals, toward_eye) < -0.2] *= -1
        return _Met(
            points=rays * hits.depth[:, None],
            normals=normals,
            toward_eye=toward_eye,
            places=values[:, 3:5],
            palm_share=values[:, 5:6],
            openness=values[:, 6:7],
            mesh_index=self._mesh_index[hits.face_index],
            footprint_m=hits.depth / np.float32(view.K[0, 0]),
        )

    def _lit(self, met: _Met, view: _View, found: np.ndarray) -> list[np.ndarray]:
        """Return, per light, its share that reaches each pixel's surface: one ray each, smoothed over the picture."""
        points, normals = met.points, met.normals
        shares = []
        covered = np.zeros((view.height, view.width), np.float32)
        covered.ravel()[found] = 1
        for direction, _color, casts_shadow in self._lights:
            share = covered.copy()
            if casts_shadow:
                turned = np.flatnonzero(normals @ direction > -0.3)
                aim = direction + self._look.light_softness * _disc(direction, len(turned), self._rng)
                blocked = self._solid.is_blocked(points[turned] + RAY_START_M * (normals[turned] + aim), aim)
                share.ravel()[found[turned[blocked]]] = 0
                size = (SOFT_SHADOW_PX, SOFT_SHADOW_PX) if self._look.light_softness > 0.04 else (3, 3)
                share = _blur(share, size) / np.maximum(_blur(covered, size), 1e-3)
            # Beyond the outline sub-rays may still meet the surface: there the neighbours' share stands.
            share[covered == 0] = 1 if not casts_shadow else share[covered == 0].clip(0.3, 1)
            shares.append(share)
        return shares

    def _shade(self, met: _Met, shares: list[np.ndarray]) -> Float32[np.ndarray, "N 3"]:
        """Return linear light."""
        albedo, gloss, is_skin = self._surface(met)
        normals, toward_eye, openness = met.normals, met.toward_eye, met.openness
        wrap = np.array(SKIN_WRAP, np.float32) * is_skin[:, None]
        light = np.zeros_like(albedo)
        shine = np.zeros_like(albedo)
        for (direction, color, _casts), share in zip(self._lights, shares, strict=True):
            facing = (normals @ direction)[:, None]
            lit = share[:, None]
            diffuse = np.clip((facing + wrap) / (1 + wrap), 0, 1) * (lit + (1 - lit) * 0.25 * wrap)
            light += diffuse * color
            half = _unit(toward_eye + direction)
            bright = np.clip(np.einsum("nc,nc->n", normals, half), 0, 1)
            bright *= bright
            bright *= bright
            bright4 = bright * bright  # to the 8th
            glancing = 0.04 + 0.96 * (1 - np.clip(toward_eye @ direction * 0.5 + 0.5, 0, 1)) ** 3
            strength = gloss * glancing * (1.2 * bright4 * bright + 2.2 * bright4**6) * np.clip(facing[:, 0] * 4, 0, 1)
            shine += (strength * share)[:, None] * color
        ambient = np.array(self._look.ambient_color, np.float32) * (0.72 + 0.28 * (normals @ self._up))[:, None]
        ambient = ambient * (openness + (openness - openness**2) * 0.45 * albedo)
        return albedo * (light + ambient) + shine

    def _surface(self, met: _Met) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return colour, gloss, and whether it is skin."""
        places, mesh_index = met.places, met.mesh_index
        albedo = np.zeros((len(places), 3), np.float32)
        gloss = np.array([part.material.gloss for part in self._parts], np.float32)[mesh_index]
        is_skin = np.array([part.material.is_skin for part in self._parts])[mesh_index]
        for index in np.flatnonzero(np.bincount(mesh_index, minlength=len(self._parts))):
            chosen = np.flatnonzero(mesh_index == index)
            material = self._parts[index].material
            size = np.full(len(chosen), met.footprint_m[chosen].mean())
            colours = material.textures[0].sample(places[chosen], size)
            if len(material.textures) == 2:
                share = met.palm_share[chosen]
                colours = share * colours + (1 - share) * material.textures[1].sample(places[chosen], size)
            albedo[chosen] = colours * material.gain.astype(np.float32)
        return albedo, gloss, is_skin

    def _behind(self, view: _View) -> Float32[np.ndarray, "H W 3"]:
        """Return wall and desk, with the shadows on the desk."""
        ambient = np.array(self._look.ambient_color, np.float32)
        key = self._lights[0][1]
        picture, _ = plane_picture(self._wall, view.K, width=view.width, height=view.height)
        picture *= self._wall_light * (ambient + 0.4 * key)
        blur = self._film.background_blur_px * view.sharpness_px
        if blur > 0.3:
            picture = _gauss(picture, blur)
        if self._desk is not None:
            desk, share = plane_picture(self._desk, view.K, width=view.width, height=view.height)
            if share is not None and share.any():
                irradiance = np.zeros((view.height, view.width, 3), np.float32) + ambient
                for direction, color, casts_shadow in self._lights:
                    facing = max(float(self._up @ direction), 0.0)
                    irradiance += color * facing * (self._desk_lit(view, direction)[..., None] if casts_shadow else 1.0)
                picture = picture + share[..., None] * (desk * irradiance - picture)
        return picture

    def _desk_lit(self, view: _View, direction: np.ndarray) -> Float32[np.ndarray, "H W"]:
        """Return the light's share on the desk: rays from a grid of pixels, enlarged."""
        assert self._desk is not None
        step = SHADOW_STEP_PX if view.sharpness_px == 1 else SHADOW_STEP_PX // 2
        points, ahead, shape = shadow_grid(self._desk, view.K, width=view.width, height=view.height, step_px=step)
        chosen = np.flatnonzero(ahead)
        aim = direction + self._look.light_softness * _disc(direction, len(chosen), self._rng)
        starts = points[chosen].astype(np.float32) + 0.004 * self._up
        lit = np.ones(len(points), np.float32)
        lit[chosen[self._solid.is_blocked(starts, aim)]] = BLOCKED_LIGHT
        lit = _blur(lit.reshape(shape), (3, 3))
        return _enlarged(lit, step, width=view.width, height=view.height)


def _part(verts: np.ndarray, faces: np.ndarray, normals: np.ndarray, places: np.ndarray, material: _Material) -> _Part:
    zeros, ones = np.zeros((len(verts), 1)), np.ones((len(verts), 1))
    values = np.concatenate([normals, places, zeros, ones], axis=1).astype(np.float32)
    return _Part(np.asarray(verts, np.float32), faces, values, material)


def _box_of(verts: np.ndarray, view: _View) -> tuple[slice, slice]:
    """Return the rows and columns of the picture that a mesh can touch; all of them if it comes near the camera."""
    if verts[:, 2].min() < NEAR_M:
        return np.s_[:, :]
    points = verts @ view.K.astype(np.float32).T
    pixels = points[:, :2] / points[:, 2:]
    size = (view.width, view.height)
    left, top = np.clip(np.floor(pixels.min(axis=0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(pixels.max(axis=0)) + 1, 0, size).astype(int)
    return np.s_[top:bottom, left:right]


def _disc(direction: np.ndarray, num: int, rng: np.random.Generator) -> Float32[np.ndarray, "N 3"]:
    """Draw points of the unit disc across a direction."""
    side = _unit(np.cross(direction, [0.31, 0.87, 0.37]))
    other = np.cross(direction, side)
    radius, angle = np.sqrt(rng.random(num)), rng.uniform(0, 2 * np.pi, num)
    return ((radius * np.cos(angle))[:, None] * side + (radius * np.sin(angle))[:, None] * other).astype(np.float32)


def _blur(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.blur(picture, size)


def _gauss(picture: np.ndarray, sigma_px: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), sigma_px)


def _enlarged(grid: np.ndarray, step: int, *, width: int, height: int) -> np.ndarray:
    """Return a picture of which the grid has every `step`-th pixel."""
    to_grid = np.array([[1 / step, 0, 0], [0, 1 / step, 0]])
    return cv2.warpAffine(
        grid, to_grid, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )


def _color_gain(rng: np.random.Generator) -> Float[np.ndarray, " 3"]:
    return np.exp(rng.normal(0, 0.25) + rng.normal(0, 0.12, 3))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.sqrt(np.einsum("...c,...c->...", vectors, vectors))[..., None], 1e-9)
