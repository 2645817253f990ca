"""Recover 4D hand motion (MANO pose, shape and metric trajectory) from ordinary monocular video."""

__version__ = "0.1.0"
