"""A scene becomes pictures: rays to the first surface, rays to a soft light, skin that lets light through a little."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from haptic.data.synthetic.limbs import LimbTopology, limb_topology, limb_verts
from haptic.data.synthetic.room import Room, Surface, make_room
from haptic.data.synthetic.scene import HandMotion, SyntheticScene, arm_points_body, camera_T_body_cam, hand_params_cam
from haptic.data.synthetic.textures import Texture, paint_cloth, paint_skin, skin_places
from haptic.geometry.cameras import project
from haptic.geometry.raster import JoinedMesh, RayHits, RayScene, interpolate, join_meshes, render, vertex_normals
from haptic.geometry.transforms import apply_transform, invert_transform
from haptic.hand.mirror import mirror_params, mirror_points
from haptic.hand.model import HandModel
from haptic.records import HandParams

LIGHT_DISTANCE_M = 2.2
LIGHT_AIM_BODY = (0.0, 0.25, 0.4)  # what the light is hung about
# How far light seeps round an edge through skin, by colour: red goes furthest.
SKIN_WRAP = (0.30, 0.13, 0.08)
SKIN_GLOSS = 0.55
OCCLUSION_RAYS = 20
OCCLUSION_REACH_M = 0.07
RAY_START_M = 0.0015  # off the surface, so that a ray does not meet the face it leaves
SLEEVE_OFFSET_M = 0.007
PALM_JOINTS = (0, 1, 5, 9, 13, 17)
# A joint is seen if what hides it is its own flesh: the depth of a joint under the skin, with some room.
JOINT_DEPTH_M = np.where(np.isin(np.arange(21), PALM_JOINTS), 0.034, 0.02)


@dataclass(frozen=True)
class RenderConfig:
    """How much work goes into a picture."""

    edge_samples: int = 3
    shadow_rays: int = 6
    exposure_samples: int = 1  # more than one: motion blur
    exposure_s: float = 1 / 90

    def __post_init__(self) -> None:
        if min(self.edge_samples, self.shadow_rays, self.exposure_samples) < 1 or self.exposure_s < 0:
            raise ValueError(
                f"edge_samples {self.edge_samples}, shadow_rays {self.shadow_rays}, exposure_samples "
                f"{self.exposure_samples} and exposure_s {self.exposure_s}: the counts must be at least one and the "
                "time not negative"
            )


@dataclass(frozen=True)
class _Piece:
    """A mesh in the camera's frame with what shading needs to know at its vertices."""

    verts: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    places: np.ndarray
    palm_share: np.ndarray
    openness: np.ndarray
    textures: tuple[Texture, ...]
    gloss: float
    is_skin: bool = False


class SceneRenderer:
    """Renders the frames of one scene; what does not move is made once, here. Equal scenes give equal pictures."""

    def __init__(self, scene: SyntheticScene, model: HandModel, config: RenderConfig | None = None) -> None:
        self.scene = scene
        self.model = model
        self.config = RenderConfig() if config is None else config
        rng = np.random.default_rng(scene.look.seed)
        self._topology: LimbTopology = limb_topology(model)
        self._skin = paint_skin(model, skin=scene.look.skin, redness=scene.look.redness, rng=rng)
        self._shirt = paint_cloth(rng=rng)
        self._room: Room = make_room(
            desk_height_m=scene.look.desk_height_m,
            skin_color=self._skin[1].levels[-1].mean(axis=(0, 1)),
            shirt=self._shirt,
            camera_distance_m=float(np.linalg.norm(scene.camera.place_body, axis=-1).min()),
            rng=rng,
        )

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the picture of one frame, RGB (sRGB)."""
        look, config = self.scene.look, self.config
        rng = np.random.default_rng([look.seed, index])
        steps = (np.arange(config.exposure_samples) + 0.5) / config.exposure_samples - 0.5
        light = np.mean(
            [self._light_at(index / self.scene.config.fps + step * config.exposure_s, rng=rng) for step in steps],
            axis=0,
        )
        shown = 1 - np.exp(-1.5 * look.exposure * light)
        # Photon noise grows with the root of the light, and a little is there in the dark.
        shown = shown + look.noise * np.sqrt(0.1 + shown) * rng.standard_normal(shown.shape)
        shown = np.clip(shown, 0, 1)
        srgb = np.where(shown < 0.0031308, 12.92 * shown, 1.055 * np.maximum(shown, 1e-6) ** (1 / 2.4) - 0.055)
        return np.round(srgb * 255).astype(np.uint8)

    def joints_visible(self, index: int) -> dict[str, Bool[np.ndarray, " 21"]]:
        """Return, per hand, which joints are in the picture and hidden by nothing but their own flesh."""
        time_s = np.array([index / self.scene.config.fps])
        limbs = [self._limb_verts(hand, time_s) for hand in self.scene.hands]
        pieces = self._room_pieces(time_s)
        joined = join_meshes([*limbs, *((piece.verts, piece.faces) for piece in pieces)])
        scene = RayScene(joined.verts, joined.faces)
        K = self.scene.camera.K
        visible = {}
        for number, (name, hand) in enumerate(zip(self.scene.hand_names, self.scene.hands, strict=True)):
            joints_cam = self._joints_cam(hand, time_s)
            joints_img = project(joints_cam, torch.from_numpy(K).float()).numpy()
            hits = scene.cast_pixels(joints_img, K)
            is_own = hits.is_hit & (joined.mesh_index[np.maximum(hits.face_index, 0)] == number)
            under_skin = joints_cam[:, 2].numpy() - hits.depth < JOINT_DEPTH_M
            size = np.array([self.scene.config.width_px, self.scene.config.height_px])
            inside = ((joints_img >= -0.5) & (joints_img <= size - 0.5)).all(axis=-1)
            visible[name] = is_own & under_skin & inside & (joints_cam[:, 2].numpy() > 0)
        return visible

    def _light_at(self, time_s: float, *, rng: np.random.Generator) -> Float[np.ndarray, "H W 3"]:
        """Return the light that falls on each pixel at one moment."""
        time = np.array([time_s])
        limbs = self._limb_pieces(time)
        room = self._room_pieces(time)
        num_shell = len(self._room.shell)
        pieces = limbs + room[num_shell:] + room[:num_shell]
        solid = join_meshes([(piece.verts, piece.faces) for piece in pieces[: len(pieces) - num_shell]])
        pieces = _with_openness(pieces, len(limbs), RayScene(solid.verts, solid.faces), rng=rng)
        joined = join_meshes([(piece.verts, piece.faces) for piece in pieces])
        shader = _Shader(self, pieces, joined, RayScene(solid.verts, solid.faces), time, rng)
        picture = render(
            RayScene(joined.verts, joined.faces),
            self.scene.camera.K,
            width=self.scene.config.width_px,
            height=self.scene.config.height_px,
            shade=shader,
            edge_samples=self.config.edge_samples,
        )
        return picture[..., :3]

    def _joints_cam(self, hand: HandMotion, time_s: np.ndarray) -> Tensor:
        params = hand_params_cam(self.scene, hand, self.model, time_s)
        if hand.is_right:
            return self.model.joints(params)[0]
        return mirror_points(self.model.joints(mirror_params(params)))[0]

    def _limb_verts(self, hand: HandMotion, time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the limb's vertices in the camera and its faces, outward for either side."""
        params = hand_params_cam(self.scene, hand, self.model, time_s)
        T_cam_body = invert_transform(camera_T_body_cam(self.scene, time_s))
        elbow, shoulder = (
            apply_transform(T_cam_body, point[:, None])[0, 0] for point in arm_points_body(self.scene, hand, time_s)
        )
        if not hand.is_right:
            params, elbow, shoulder = mirror_params(params), mirror_points(elbow), mirror_points(shoulder)
        verts = limb_verts(
            self._topology,
            self._right_hand_verts(params),
            orientation=params.global_orient[0].numpy(),
            elbow=elbow.numpy(),
            shoulder=shoulder.numpy(),
        )
        if hand.is_right:
            return verts, self._topology.faces
        return verts * np.array([-1, 1, 1], np.float32), self._topology.faces[:, [0, 2, 1]]

    def _right_hand_verts(self, params: HandParams) -> np.ndarray:
        with torch.no_grad():
            return self.model(params).verts[0].numpy()

    def _limb_pieces(self, time_s: np.ndarray) -> list[_Piece]:
        """Return bare limbs, then sleeves."""
        topology = self._topology
        rest = topology.rest
        arm_start = rest[topology.wrist_loop, 0].max()
        ones = np.ones(len(rest), np.float32)
        palm_share = np.clip(0.5 - 1.8 * topology.rest_normals[:, 1], 0, 1).astype(np.float32)
        places = skin_places(rest)
        in_sleeve = rest[:, 0] > arm_start + self.scene.look.sleeve_start_m
        bare, sleeves = [], []
        for hand in self.scene.hands:
            verts, faces = self._limb_verts(hand, time_s)
            normals = vertex_normals(verts, faces)
            bare.append(_Piece(verts, faces, normals, places, palm_share, ones, self._skin, SKIN_GLOSS, is_skin=True))
            folds = SLEEVE_OFFSET_M * (1 + 0.25 * np.sin(210 * rest[:, 0] + 4 * rest[:, 1] / 0.04))
            sleeve = (verts + normals * folds[:, None]).astype(np.float32)
            cloth_faces = faces[in_sleeve[faces].all(axis=1)]
            sleeve_normals = vertex_normals(sleeve, cloth_faces)
            sleeves.append(_Piece(sleeve, cloth_faces, sleeve_normals, places, 0 * ones, ones, (self._shirt,), 0.02))
        return bare + sleeves

    def _room_pieces(self, time_s: np.ndarray) -> list[_Piece]:
        """Return the shell, then the things, in the camera."""
        T_cam_body = invert_transform(camera_T_body_cam(self.scene, time_s))[0].numpy()
        return [_placed(surface, T_cam_body) for surface in (*self._room.shell, *self._room.things)]


class _Shader:
    """The light that the hits send to the camera."""

    def __init__(
        self,
        renderer: SceneRenderer,
        pieces: list[_Piece],
        joined: JoinedMesh,
        solid: RayScene,
        time_s: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        self._look = renderer.scene.look
        self._config = renderer.config
        self._focal_px = float(renderer.scene.camera.K[0, 0])
        self._pieces, self._joined, self._solid, self._rng = pieces, joined, solid, rng
        self._at_vertices = np.concatenate(
            [
                joined.verts,
                np.concatenate([piece.normals for piece in pieces]),
                np.concatenate([piece.places for piece in pieces]),
                np.concatenate([piece.palm_share for piece in pieces])[:, None],
                np.concatenate([piece.openness for piece in pieces])[:, None],
            ],
            axis=-1,
            dtype=np.float32,
        )
        T_cam_body = invert_transform(camera_T_body_cam(renderer.scene, time_s))[0].numpy()
        light_body = np.array(LIGHT_AIM_BODY) + LIGHT_DISTANCE_M * np.array(self._look.light_direction_body)
        self._light_cam = (T_cam_body[:3, :3] @ light_body + T_cam_body[:3, 3]).astype(np.float32)
        self._up_cam = -T_cam_body[:3, 1]

    def __call__(self, hits: RayHits) -> Float[np.ndarray, "N 3"]:
        """Return linear light."""
        values = interpolate(hits, self._joined.faces, self._at_vertices)
        points, normals, places, palm_share, openness = np.split(values, [3, 6, 8, 9], axis=-1)
        toward_eye = -_unit(points)
        normals = _unit(normals)
        normals = np.where((normals * toward_eye).sum(-1, keepdims=True) < -0.2, -normals, normals)
        mesh_index = self._joined.mesh_index[hits.face_index]
        gloss = np.array([piece.gloss for piece in self._pieces], np.float32)[mesh_index]
        is_skin = np.array([piece.is_skin for piece in self._pieces])[mesh_index]
        albedo = self._albedo(mesh_index, places, palm_share, hits.depth)

        to_light = self._light_cam - points
        distance = np.linalg.norm(to_light, axis=-1, keepdims=True)
        to_light = to_light / distance
        facing = (normals * to_light).sum(-1, keepdims=True)
        lit = self._lit_share(points, normals, to_light, facing[:, 0])[:, None]
        light = np.array(self._look.light_color, np.float32) * (LIGHT_DISTANCE_M / distance) ** 2

        wrap = np.where(is_skin[:, None], np.array(SKIN_WRAP, np.float32), 0.0)
        diffuse = np.clip((facing + wrap) / (1 + wrap), 0, 1) * (lit + (1 - lit) * 0.25 * wrap)
        upward = 0.5 + 0.5 * (normals @ self._up_cam)[:, None]
        ambient = np.array(self._look.ambient_color, np.float32) * (0.45 + 0.55 * upward)
        # Light that is bounced between fingers takes on their colour: corners are not grey but warm.
        ambient = ambient * openness ** (1 - 0.45 * albedo)
        half = _unit(to_light + toward_eye)
        glancing = 0.04 + 0.96 * (1 - np.clip((toward_eye * half).sum(-1), 0, 1)) ** 5
        shine = np.clip((normals * half).sum(-1), 0, 1)
        shine = gloss * glancing * (2.2 * shine**60 + 1.2 * shine**14) * np.clip(facing[:, 0] * 4, 0, 1)
        return (albedo * (diffuse * light + ambient) + shine[:, None] * lit * light).astype(np.float32)

    def _albedo(
        self, mesh_index: np.ndarray, places: np.ndarray, palm_share: np.ndarray, depth: np.ndarray
    ) -> np.ndarray:
        albedo = np.zeros((len(places), 3), np.float32)
        footprint = depth / self._focal_px
        for index in np.unique(mesh_index):
            chosen = np.flatnonzero(mesh_index == index)
            textures = self._pieces[index].textures
            colours = textures[0].sample(places[chosen], footprint[chosen])
            if len(textures) == 2:
                share = palm_share[chosen]
                colours = share * colours + (1 - share) * textures[1].sample(places[chosen], footprint[chosen])
            albedo[chosen] = colours
        return albedo

    def _lit_share(
        self, points: np.ndarray, normals: np.ndarray, to_light: np.ndarray, facing: np.ndarray
    ) -> np.ndarray:
        """Return the share of the light's disc that each point sees: rays to a spiral on it, turned by chance."""
        share = np.zeros(len(points), np.float32)
        turned = np.flatnonzero(facing > -0.3)
        start = points[turned] + RAY_START_M * (normals[turned] + to_light[turned])
        aim = to_light[turned]
        side = _unit(np.cross(aim, [0.31, 0.87, 0.37]))
        other = np.cross(aim, side)
        turn = self._rng.uniform(0, 2 * np.pi, len(turned))
        rays = self._config.shadow_rays
        for ray in range(rays):
            radius = self._look.light_softness * np.sqrt((ray + 0.5) / rays)
            angle = turn + ray * 2.39996  # the golden angle
            offset = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
            share[turned] += ~self._solid.is_blocked(start, aim + radius * offset)
        return share / rays


def _with_openness(pieces: list[_Piece], num_limbs: int, solid: RayScene, *, rng: np.random.Generator) -> list[_Piece]:
    """Give the limbs' vertices the share of nearby directions that are free: dark between fingers."""
    directions = _unit(rng.standard_normal((OCCLUSION_RAYS, 3))).astype(np.float32)
    opened = []
    for piece in pieces[:num_limbs]:
        num_verts = len(piece.verts)
        # About the normal: a direction on the ball plus the normal is spread like light falling on the surface.
        rays = _unit(directions[None] + 1.05 * piece.normals[:, None]).reshape(-1, 3)
        starts = np.repeat(piece.verts + RAY_START_M * piece.normals, OCCLUSION_RAYS, axis=0)
        depth = solid.first_hits(starts, rays).depth.reshape(num_verts, OCCLUSION_RAYS)
        openness = np.clip(depth / OCCLUSION_REACH_M, 0, 1).mean(axis=1).astype(np.float32)
        opened.append(
            _Piece(
                piece.verts, piece.faces, piece.normals, piece.places, piece.palm_share, openness,
                piece.textures, piece.gloss, piece.is_skin,
            )
        )  # fmt: skip
    return opened + pieces[num_limbs:]


def _placed(surface: Surface, T_cam_body: np.ndarray) -> _Piece:
    rotation, translation = T_cam_body[:3, :3], T_cam_body[:3, 3]
    ones = np.ones(len(surface.verts), np.float32)
    return _Piece(
        verts=(surface.verts @ rotation.T + translation).astype(np.float32),
        faces=surface.faces,
        normals=(surface.normals @ rotation.T).astype(np.float32),
        places=surface.places,
        palm_share=0 * ones,
        openness=ones,
        textures=(surface.texture,),
        gloss=surface.gloss,
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
