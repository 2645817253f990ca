"""Joint names, the kinematic tree, and how the orders of the field map onto each other.

OpenPose order is the package's order for 21 joints: wrist, then thumb, index, middle, ring, little from base to tip.
MANO's own order has 16 joints: wrist, then index, middle, little, ring, thumb, three each.
"""

FINGERS = ("thumb", "index", "middle", "ring", "pinky")

JOINT_NAMES = (
    "wrist",
    "thumb_cmc", "thumb_mcp", "thumb_ip", "thumb_tip",
    "index_mcp", "index_pip", "index_dip", "index_tip",
    "middle_mcp", "middle_pip", "middle_dip", "middle_tip",
    "ring_mcp", "ring_pip", "ring_dip", "ring_tip",
    "pinky_mcp", "pinky_pip", "pinky_dip", "pinky_tip",
)  # fmt: skip
NUM_JOINTS = len(JOINT_NAMES)

# The parent of each of the 21 joints, in OpenPose order.
PARENTS_21 = (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)

MANO_NAMES = (
    "wrist",
    "index_mcp", "index_pip", "index_dip",
    "middle_mcp", "middle_pip", "middle_dip",
    "pinky_mcp", "pinky_pip", "pinky_dip",
    "ring_mcp", "ring_pip", "ring_dip",
    "thumb_cmc", "thumb_mcp", "thumb_ip",
)  # fmt: skip
MANO_PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)

# The mesh vertices at the fingertips of MANO's topology, thumb to little finger (HaMeR's choice; manopth's differs).
FINGERTIP_VERTICES = (744, 320, 443, 554, 671)

# Index into [16 MANO joints, 5 fingertips (thumb ... pinky)] of each OpenPose joint.
OPENPOSE_FROM_MANO = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)

# Per finger, the four OpenPose joints from base to tip.
FINGER_CHAINS = tuple(tuple(range(1 + 4 * f, 5 + 4 * f)) for f in range(5))
