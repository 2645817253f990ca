"""Pictures that are painted by rule: skin in the hand's rest pose, wood, cloth, walls. Linear light, not sRGB."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from haptic.hand.joints import FINGER_CHAINS
from haptic.hand.model import HandModel
from haptic.records import HandParams

SKIN_TEXEL_M = 0.0005
SKIN_ORIGIN_M = (-0.13, -0.12)  # rest x and z of the skin pictures' first texel
SKIN_SIZE_M = (0.75, 0.24)
# Linear RGB of skin from the lightest to the darkest, the values of common sRGB skin swatches.
SKIN_TONES = ((0.83, 0.58, 0.45), (0.70, 0.40, 0.26), (0.47, 0.23, 0.125), (0.25, 0.105, 0.05), (0.10, 0.042, 0.022))
BONE_MARGIN_M = 0.025  # beyond it a bone paints nothing
WRINKLE_PITCH_M = 0.0018
REMAP_COLUMNS = 1024  # cv2.remap takes no side above 32767


@dataclass(frozen=True)
class Texture:
    """A picture with its halvings; `texel` is the size of its first level's texel in the units of its coordinates."""

    levels: tuple[Float[np.ndarray, "_h _w 3"], ...]
    texel: float

    def sample(self, places: Float[np.ndarray, "N 2"], footprint: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N 3"]:
        """Return the colours at (column, row) places, averaged over about the footprint; the picture repeats."""
        colours = np.zeros((len(places), 3), np.float32)
        wanted = np.log2(np.maximum(footprint / self.texel, 1))
        level_index = np.minimum(np.round(wanted).astype(int), len(self.levels) - 1)
        for index, level in enumerate(self.levels):
            chosen = np.flatnonzero(level_index == index)
            if not len(chosen):
                continue
            texels = places[chosen] / (self.texel * 2**index) - 0.5
            height, width = level.shape[:2]
            padded = np.zeros((-(-len(chosen) // REMAP_COLUMNS) * REMAP_COLUMNS, 2), np.float32)
            padded[: len(chosen)] = np.mod(texels, [width, height])
            maps = padded.reshape(-1, REMAP_COLUMNS, 2)
            picked = cv2.remap(level, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
            colours[chosen] = picked.reshape(-1, 3)[: len(chosen)]
        return colours


def make_texture(picture: Float[np.ndarray, "_h _w 3"], texel: float) -> Texture:
    """Return the picture with its halvings, down to 8 texels."""
    levels = [np.ascontiguousarray(picture, np.float32)]
    while min(levels[-1].shape[:2]) >= 16:
        height, width = levels[-1].shape[:2]
        half = cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        levels.append(np.ascontiguousarray(half, np.float32))
    return Texture(tuple(levels), texel)


def skin_places(rest: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 2"]:
    """Return where a point of the rest pose lies on the skin pictures, in metres: seen along the y axis."""
    return (rest[:, [0, 2]] - np.array(SKIN_ORIGIN_M)).astype(np.float32)


def paint_skin(model: HandModel, *, skin: float, redness: float, rng: np.random.Generator) -> tuple[Texture, Texture]:
    """Return the palm's and the back's skin: tone, mottling, creases, reddish tips and knuckles, nails."""
    width, height = (round(side / SKIN_TEXEL_M) for side in SKIN_SIZE_M)
    tones = np.log(np.array(SKIN_TONES))
    base = np.exp([np.interp(skin * (len(tones) - 1), range(len(tones)), tones[:, channel]) for channel in range(3)])
    tips, chain_joints = _rest_chains(model)
    palm_tone = base ** (1 - 0.3 * skin) * np.array([1.06, 1.0, 1.0])  # palms carry little melanin
    layers = []
    for is_palm, tone in ((True, palm_tone), (False, base)):
        mottle = 0.6 * cloud(height, width, cell=60, rng=rng) + 0.4 * cloud(height, width, cell=14, rng=rng)
        fine = cloud(height, width, cell=4, rng=rng)
        blood = (0.25 + 0.75 * redness) * (0.5 + 0.5 * mottle)
        blood = blood * (0.5 if is_palm else 0.25)
        dark = 0.05 * mottle + 0.05 * fine
        for chain, tip in zip(chain_joints, tips, strict=True):
            _paint_finger(dark, blood, chain, tip, is_palm=is_palm)
        if is_palm:
            dark = dark + 0.3 * _palm_lines(height, width, chain_joints)
        picture = tone * np.exp(-dark[..., None] * np.array([0.75, 1.0, 1.1]))
        picture = picture * np.exp(-blood[..., None] * np.array([-0.08, 0.42, 0.36]))
        if not is_palm:
            picture = _paint_nails(picture, chain_joints, tone)
        layers.append(make_texture(np.clip(picture, 0, 1).astype(np.float32), SKIN_TEXEL_M))
    return layers[0], layers[1]


def paint_wood(*, rng: np.random.Generator) -> Texture:
    """Return a desk's top: boards with grain, 1.6 m repeated."""
    side = 800
    light = np.array([0.50, 0.33, 0.19]) * rng.uniform(0.35, 1.1)
    dark = light * np.array([0.62, 0.52, 0.42])
    rows = np.arange(side)[:, None] / side
    grain = cv2.resize(cloud(side, 40, cell=5, rng=rng), (side, side), interpolation=cv2.INTER_CUBIC)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (rows * 26 + 1.6 * cloud(side, side, cell=200, rng=rng)))
    board = (np.arange(side) // (side // 8)) % 8
    tint = rng.normal(0, 0.12, 8)[board][:, None]
    joint = (np.arange(side) % (side // 8) < 2)[:, None] * 0.5
    share = np.clip(0.3 * rings + 0.35 * (0.5 + 0.5 * grain) + tint + joint, 0, 1)[..., None]
    return make_texture((1 - share) * light + share * dark, 1.6 / side)


def paint_plain(*, rng: np.random.Generator, lightness: tuple[float, float] = (0.08, 0.7)) -> Texture:
    """Return paint or laminate: one colour, a little uneven, 1 m repeated."""
    side = 512
    colour = draw_color(rng, lightness=lightness, saturation=0.35)
    uneven = 1 + 0.07 * cloud(side, side, cell=80, rng=rng) + 0.04 * cloud(side, side, cell=4, rng=rng)
    return make_texture(uneven[..., None] * colour, 1.0 / side)


def paint_cloth(*, rng: np.random.Generator) -> Texture:
    """Return woven cloth, plain, striped or checked, 0.2 m repeated."""
    side = 256
    colour = draw_color(rng, lightness=(0.03, 0.6), saturation=0.6)
    other = draw_color(rng, lightness=(0.03, 0.6), saturation=0.6)
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    weave = 1 + 0.12 * np.sin(columns * np.pi / 2) * np.sin(rows * np.pi / 2)
    kind = rng.integers(3)
    share = np.zeros((side, side))
    if kind >= 1:
        share = share + 0.5 * (rows % 64 < 22)
    if kind == 2:
        share = share + 0.5 * (columns % 64 < 22)
    folds = 1 + 0.12 * cloud(side, side, cell=40, rng=rng)
    return make_texture(
        (weave * folds)[..., None] * ((1 - share[..., None]) * colour + share[..., None] * other), 0.2 / side
    )


def paint_wall(*, rng: np.random.Generator) -> Texture:
    """Return a room's wall: paint, and on it pictures, shelves with books, a window or a door; 4 m repeated."""
    side = 1024
    texel = 4.0 / side
    wall = np.ones((side, side, 3)) * draw_color(rng, lightness=(0.25, 0.75), saturation=0.2)
    wall *= (1 + 0.05 * cloud(side, side, cell=200, rng=rng))[..., None]
    for _ in range(rng.integers(5, 12)):
        width, height = rng.integers(50, 260, 2)
        left, top = rng.integers(0, side - width), rng.integers(0, side - height)
        if rng.random() < 0.5:
            wall[top : top + height, left : left + width] = paint_poster(int(height), int(width), rng=rng)
        else:
            wall[top : top + height, left : left + width] = _bookshelf(int(height), int(width), rng=rng)
    return make_texture(wall, texel)


def paint_poster(height: int, width: int, *, rng: np.random.Generator) -> np.ndarray:
    """Return a framed picture of discs and rectangles."""
    picture = np.ones((height, width, 3)) * draw_color(rng, lightness=(0.05, 0.9), saturation=0.7)
    for _ in range(rng.integers(2, 9)):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        colour = tuple(float(c) for c in draw_color(rng, lightness=(0.02, 0.9), saturation=0.8))
        if rng.random() < 0.5:
            cv2.circle(picture, centre, int(rng.integers(5, 60)), colour, -1, cv2.LINE_AA)
        else:
            corner = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.rectangle(picture, centre, corner, colour, -1)
    frame = draw_color(rng, lightness=(0.02, 0.6), saturation=0.3)
    picture[:6], picture[-6:], picture[:, :6], picture[:, -6:] = frame, frame, frame, frame
    return picture


def _bookshelf(height: int, width: int, *, rng: np.random.Generator) -> np.ndarray:
    shelf = np.ones((height, width, 3)) * 0.04
    board = draw_color(rng, lightness=(0.1, 0.5), saturation=0.4)
    for top in range(0, height, 70):
        left = 4
        while left < width - 6:
            thickness, tall = int(rng.integers(6, 18)), int(rng.integers(35, 60))
            colour = draw_color(rng, lightness=(0.03, 0.7), saturation=0.7)
            shelf[max(top + 64 - tall, 0) : top + 64, left : min(left + thickness - 1, width - 4)] = colour
            left += thickness
        shelf[top + 64 : top + 70] = board
    shelf[:4], shelf[-4:], shelf[:, :4], shelf[:, -4:] = board, board, board, board
    return shelf


def _rest_chains(model: HandModel) -> tuple[np.ndarray, np.ndarray]:
    """Return the fingertips (5, 3) and the fingers' three joints (5, 3, 3) of the mean hand, thumb to little finger."""
    identity = model.joint_template.new_tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    zeros = model.joint_template.new_zeros(13)
    joints = model.joints(HandParams(identity, identity.expand(15, 3, 3), betas=zeros[:10], transl=zeros[10:])).numpy()
    chains = joints[np.array(FINGER_CHAINS)]
    return chains[:, 3], chains[:, :3]


def _texels(points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 2"]:
    return (points[..., [0, 2]] - np.array(SKIN_ORIGIN_M)) / SKIN_TEXEL_M - 0.5


@dataclass(frozen=True)
class _Bone:
    """The part of a skin picture about a bone: its window, and each texel's way along and beside the bone in metres."""

    window: tuple[slice, slice]
    along: Float[np.ndarray, "_h _w"]
    beside: Float[np.ndarray, "_h _w"]
    length: float


def _bone(shape: tuple[int, ...], start: np.ndarray, end: np.ndarray) -> _Bone:
    ends = _texels(np.stack([start, end]))
    margin = BONE_MARGIN_M / SKIN_TEXEL_M
    left, top = np.clip(np.floor(ends.min(axis=0) - margin), 0, [shape[1], shape[0]]).astype(int)
    right, bottom = np.clip(np.ceil(ends.max(axis=0) + margin), 0, [shape[1], shape[0]]).astype(int)
    columns, rows = np.meshgrid(
        np.arange(left, right, dtype=np.float32) - ends[0, 0], np.arange(top, bottom, dtype=np.float32) - ends[0, 1]
    )
    length = float(np.linalg.norm(ends[1] - ends[0]))
    ux, uy = (ends[1] - ends[0]) / length
    along, beside = columns * ux + rows * uy, rows * ux - columns * uy
    return _Bone(np.s_[top:bottom, left:right], along * SKIN_TEXEL_M, beside * SKIN_TEXEL_M, length * SKIN_TEXEL_M)


def _paint_finger(dark: np.ndarray, blood: np.ndarray, chain: np.ndarray, tip: np.ndarray, *, is_palm: bool) -> None:
    """Add, in place, a finger's creases (palm), or knuckles and their wrinkles (back), and its blood-filled tip."""
    for joint, (start, end) in enumerate([(chain[0], chain[1]), (chain[1], chain[2]), (chain[2], tip)]):
        bone = _bone(dark.shape, start, end)
        near = np.exp(-((bone.beside / 0.009) ** 4))
        if is_palm:
            crease_at = 0.019 if joint == 0 else 0.0  # the web covers the first bone's base
            curved = bone.along - crease_at + 6 * bone.beside**2
            dark[bone.window] += near * (
                0.55 * np.exp(-((curved / 0.0007) ** 2)) + 0.12 * np.exp(-((curved / 0.003) ** 2))
            )
        else:
            knuckle = near * np.exp(-(((bone.along + 0.001) / (0.009 if joint == 0 else 0.006)) ** 2))
            lines = 0.5 + 0.5 * np.cos(2 * np.pi * (bone.along + 4 * bone.beside**2) / WRINKLE_PITCH_M)
            dark[bone.window] += knuckle * (0.10 + (0.06 if joint == 0 else 0.16) * lines)
            blood[bone.window] += 0.45 * knuckle
        if joint == 2:
            blood[bone.window] += 0.6 * near * np.clip((bone.along - 0.2 * bone.length) / (0.6 * bone.length), 0, 1)


def _palm_lines(height: int, width: int, chains: np.ndarray) -> np.ndarray:
    """Return the life, head and heart lines, drawn between places set by the knuckles and the thumb's base."""
    _thumb, index, middle, ring, little = chains[:, 0]
    wrist = np.array([0.09, 0, 0.008])
    toward_wrist = np.array([1.0, 0, 0])
    lines = (
        (
            index + 0.012 * toward_wrist + [0, 0, 0.012],
            index + 0.035 * toward_wrist,
            middle + 0.07 * toward_wrist,
            wrist,
        ),
        (
            index + 0.013 * toward_wrist + [0, 0, 0.011],
            middle + 0.03 * toward_wrist,
            ring + 0.036 * toward_wrist,
            little + 0.035 * toward_wrist - [0, 0, 0.004],
        ),
        (
            (index + middle) / 2 - 0.004 * toward_wrist,
            middle + 0.008 * toward_wrist,
            ring + 0.009 * toward_wrist,
            little + 0.008 * toward_wrist - [0, 0, 0.012],
        ),
    )
    picture = np.zeros((height, width), np.float32)
    for points in lines:
        control = _texels(np.array(points))
        t = np.linspace(0, 1, 40)[:, None]
        curve = (1 - t) ** 3 * control[0] + 3 * t * (1 - t) ** 2 * control[1]
        curve = curve + 3 * t**2 * (1 - t) * control[2] + t**3 * control[3]
        cv2.polylines(picture, [np.round(curve).astype(np.int32)], False, 1.0, 2, cv2.LINE_AA)
    return cv2.GaussianBlur(picture, (0, 0), 1.2)


def _paint_nails(picture: np.ndarray, chains: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """Lay a nail on the back of each fingertip: a rounded plate, pale free edge, dark rim.

    The tip joints lie on the fingers' pulp, so the nail is placed by the last two joints. The thumb's nail faces
    sideways in the rest pose and would be seen at a grazing angle here: it is left out.
    """
    for chain in chains[1:]:
        beyond = chain[2] + (chain[2] - chain[1]) / np.linalg.norm(chain[2] - chain[1]) * 0.022
        bone = _bone(picture.shape, chain[2], beyond)
        middle, half_length, half_width = 0.70 * bone.length, 0.30 * bone.length, 0.0052
        distance = (((bone.along - middle) / half_length) ** 4 + (bone.beside / half_width) ** 4) ** 0.25
        plate = np.clip((1 - distance) * 8, 0, 1)[..., None]
        rim = np.exp(-(((distance - 1) / 0.12) ** 2))[..., None]
        free = np.clip((bone.along - middle - 0.72 * half_length) / (0.15 * half_length), 0, 1)[..., None]
        nail = tone * np.array([1.05, 0.86, 0.88]) * 0.6 + np.array([0.62, 0.42, 0.38]) * 0.4
        nail = (1 - 0.5 * free) * nail + 0.5 * free * np.array([0.72, 0.64, 0.55])
        picture[bone.window] = (1 - plate) * picture[bone.window] * (1 - 0.2 * rim) + plate * nail
    return picture


def cloud(height: int, width: int, *, cell: int, rng: np.random.Generator) -> Float[np.ndarray, "_h _w"]:
    """Return smooth noise of about unit spread whose blobs are `cell` texels wide; it repeats at the edges."""
    rows, columns = max(height // cell, 2), max(width // cell, 2)
    coarse = np.pad(rng.standard_normal((rows, columns)).astype(np.float32), 2, mode="wrap")
    scale_y, scale_x = height / rows, width / columns
    map_x = ((np.arange(width) + 0.5) / scale_x - 0.5 + 2).astype(np.float32)
    map_y = ((np.arange(height) + 0.5) / scale_y - 0.5 + 2).astype(np.float32)
    return cv2.remap(coarse, *np.meshgrid(map_x, map_y), cv2.INTER_CUBIC)


def draw_color(rng: np.random.Generator, *, lightness: tuple[float, float], saturation: float) -> np.ndarray:
    """Draw a colour, linear light."""
    hue = rng.uniform(0, 2 * np.pi)
    tint = 1 + saturation * rng.random() * np.cos(hue - np.array([0, 2.1, 4.2]))
    return np.clip(rng.uniform(*lightness) * tint, 0.01, 0.95)
