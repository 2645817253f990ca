"""Right or left, for sets that do not say: what the hand detector sees where the annotated joints are."""

import numpy as np

from haptic.perception.detector import HandDetection, HandDetector, HandLandmarker, Region
from haptic.perception.video import Frame

LOOK = 2.0  # side of the looked-at square over that of the joints' box
MAX_DISTANCE = 0.25  # of detected from annotated joints, over that side
MIN_CERTAINTY = 0.7


class SideJudge:
    """Asks a detector; the landmarker that ships is loaded with the first picture."""

    def __init__(self, detector: HandDetector | None = None) -> None:
        self._detector = detector

    def is_right(self, image: np.ndarray, joints_img: np.ndarray) -> bool | None:
        """Say whether it is a right hand; None if no detected hand lies where the joints are, or it is doubtful.

        Args:
            joints_img: (21, 2), NaN where not annotated.
        """
        if self._detector is None:
            self._detector = HandLandmarker()
        known = joints_img[np.isfinite(joints_img).all(axis=-1)]
        if len(known) < 2:
            return None
        center, side_px = (known.min(axis=0) + known.max(axis=0)) / 2, float(np.ptp(known, axis=0).max())
        frame = Frame(index=0, time_s=0.0, image=image)
        found = self._detector.detect_in(frame, Region(center, LOOK * max(side_px, 1.0)))
        found = found or self._detector.detect(frame)
        best = min(found, key=lambda one: _distance(one, joints_img), default=None)
        if best is None or _distance(best, joints_img) > MAX_DISTANCE * side_px:
            return None
        return best.is_right if max(best.p_right, 1 - best.p_right) >= MIN_CERTAINTY else None


def _distance(detection: HandDetection, joints_img: np.ndarray) -> float:
    """Return the median distance of detected and annotated joints, pixels."""
    off = np.linalg.norm(detection.joints_img - joints_img, axis=-1)
    return float(np.median(off[np.isfinite(off)]))
