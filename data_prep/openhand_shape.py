"""Shapes of the open hand: ten orthogonal directions in which adult hands differ."""

import numpy as np
from jaxtyping import Float

from data_prep.mesh_surgery import smoothed
from data_prep.openhand_rest import Bones, Hand, bone_frames


def make_shapedirs(hand: Hand, regressor: Float[np.ndarray, "16 V"]) -> Float[np.ndarray, "V 3 10"]:
    """Return ten orthogonal shape directions, metres per standard deviation among adults.

    Each starts as a strain of the bones (how much longer, wider, thicker each becomes), carried to the skin by
    the skin weights. What an earlier direction already says is taken out of the later ones.
    """
    directions: list[np.ndarray] = []
    for along, sideways, upward in _strains(hand.bones):
        field = _strain_field(hand, along, sideways, upward)
        field = field - regressor[0] @ field  # the wrist joint stays
        for earlier in directions:
            field = field - earlier * (earlier * field).sum() / (earlier * earlier).sum()
        directions.append(field)
    return np.stack(directions, axis=-1)


def _strains(bones: Bones) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return per direction the relative growth of each bone at +1 standard deviation: along, sideways, upward."""
    zero = np.zeros(len(bones.head))
    joint = bones.mano_joint
    finger = np.where(joint > 0, (joint - 1) // 3, -1)
    place = np.where(joint > 0, (joint - 1) % 3, -1)
    is_thumb = finger == 4
    is_finger = (finger >= 0) & ~is_thumb
    is_palm = joint == 0
    size = 0.063 + zero
    return [
        (size, size, size),  # 0 size
        (0.060 * (is_finger | (is_thumb & (place > 0))), zero, zero),  # 1 length of the fingers
        (zero, 0.055 + zero, zero),  # 2 breadth
        (zero, zero, 0.070 + zero),  # 3 thickness
        (zero, 0.07 * ~is_palm, 0.07 * ~is_palm),  # 4 girth of the fingers against the palm
        (0.06 * is_thumb, zero, zero),  # 5 length of the thumb
        (0.04 * (finger == 0) - 0.04 * (finger == 3), zero, zero),  # 6 index finger against ring finger
        (0.06 * (finger == 2), zero, zero),  # 7 length of the little finger
        (zero, *(2 * [0.06 * (place == 2) - 0.06 * (place == 0)])),  # 8 tapering of the fingers
        (0.06 * (is_finger & (place > 0)) - 0.06 * (is_finger & (place == 0)), zero, zero),  # 9 middle phalanges
    ]


def _strain_field(hand: Hand, along: np.ndarray, sideways: np.ndarray, upward: np.ndarray) -> Float[np.ndarray, "V 3"]:
    """Carry growth of the bones to the skin: each bone pushes those behind it, the skin blends between them."""
    bones = hand.bones
    frames = bone_frames(bones)
    growth = np.stack([along, upward, sideways], axis=-1)
    strain = np.einsum("kia,ka,kja->kij", frames, growth, frames)
    # The palm is one body: its growth has the hand's axes, whichever way a metacarpal points.
    is_palm = bones.mano_joint == 0
    strain[is_palm] = np.array([np.diag(g[[0, 1, 2]]) for g in growth[is_palm]])
    push = np.zeros_like(bones.head)
    for bone in range(1, len(push)):
        parent = bones.parent[bone]
        push[bone] = push[parent] + strain[parent] @ (bones.head[bone] - bones.head[parent])
    moved = push + np.einsum("kij,vkj->vki", strain, hand.verts[:, None] - bones.head)
    blend = smoothed(hand.bone_weights, hand.faces, rounds=2)
    return np.einsum("vk,vki->vi", blend, moved)
