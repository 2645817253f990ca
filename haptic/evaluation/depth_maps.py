"""Metric depth of a picture by others' networks, through the package transformers (extra `[depth]`).

ZoeDepth (Bhat et al. 2023) and Depth Anything V2's metric models (Yang et al. 2024). Weights are the user's folder, or
a name on the hub, from which transformers fetches them once.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8

ZOEDEPTH = "Intel/zoedepth-nyu-kitti"
DEPTH_ANYTHING = "depth-anything/Depth-Anything-V2-Metric-Indoor-Large-hf"


@runtime_checkable
class DepthNetwork(Protocol):
    """Says how far everything in a picture is."""

    def metres(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
        """Return each pixel's depth (its z, not its distance) in metres."""


class TransformersDepth:
    """A metric depth network of the package transformers."""

    def __init__(self, source: str, *, device: torch.device) -> None:
        """Load a folder or a name on the hub.

        Raises:
            ValueError: transformers is not installed, nothing is found, or the network's depth is not metric.
        """
        try:
            from transformers import AutoImageProcessor, AutoModelForDepthEstimation
        except ModuleNotFoundError:
            raise ValueError(
                "depth uplift: needs the package transformers; pip install 'haptic[depth]', or leave the method out"
            ) from None
        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(source)
            self._model: Any = AutoModelForDepthEstimation.from_pretrained(source).to(device).eval()
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"depth uplift: {source} gives no depth network ({reason}); expected a folder that transformers wrote, "
                "or a name on its hub and a way there"
            ) from None
        kind = self._model.config.model_type
        self._is_zoe = kind == "zoedepth"
        is_metric = self._is_zoe or getattr(self._model.config, "depth_estimation_type", "") == "metric"
        if not is_metric:
            raise ValueError(
                f"depth uplift: {source} is a {kind} whose depth is relative; expected ZoeDepth or a metric Depth "
                f"Anything, as {DEPTH_ANYTHING}"
            )
        self._device = device

    @torch.no_grad()
    def metres(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
        """Return each pixel's depth in metres."""
        size = [image.shape[:2]]
        inputs = self._processor(images=image, return_tensors="pt").to(self._device)
        answer = self._model(**inputs)
        if self._is_zoe:  # it pads the picture, and takes the padding off again
            (found,) = self._processor.post_process_depth_estimation(answer, source_sizes=size)
        else:
            (found,) = self._processor.post_process_depth_estimation(answer, target_sizes=size)
        return found["predicted_depth"].float().cpu().numpy()
