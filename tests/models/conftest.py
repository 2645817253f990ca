"""A network small enough to run in a moment."""

import pytest
import torch

from haptic.models.backbone import BackboneConfig
from haptic.models.decoder import DecoderConfig
from haptic.models.haptic import HapticConfig

TINY_BACKBONE = {"dim": 32, "depth": 2, "heads": 4}
TINY_DECODER = {"dim": 32, "depth": 2, "heads": 2, "head_dim": 8, "mlp_dim": 32}


@pytest.fixture
def tiny():
    """Makes configs of a network small enough to run in a moment; `decoder` and `backbone` take changes."""

    def make(*, backbone=None, decoder=None, **rest) -> HapticConfig:
        return HapticConfig(
            backbone=BackboneConfig(**{**TINY_BACKBONE, **(backbone or {})}),
            decoder=DecoderConfig(**{**TINY_DECODER, **(decoder or {})}),
            **rest,
        )

    return make


@pytest.fixture
def shake():
    """Gives every parameter of a network a new random value, so that no branch is silent."""

    def do(model, seed=0):
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
        return model.eval()

    return do
