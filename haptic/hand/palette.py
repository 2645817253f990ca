"""The colour of each hand, the same in every picture, film and scene: warm for right hands, cool for left ones."""

import colorsys

RIGHT_HUES = (0.09, 0.15, 0.0)  # amber, yellow, red: the first, second and third right hand
LEFT_HUES = (0.565, 0.49, 0.65)  # blue, teal, violet
SKIN_HUE_SHIFT = -0.025  # scenes: amber becomes skin


def hand_color(name: str) -> tuple[float, float, float]:
    """Return red, green and blue in [0, 1] (sRGB) for a hand named `right_0`, `left_0`, `right_1`, ...

    Vivid, since real skin must not be taken for a mesh that lies over it.
    """
    return _color(name, lightness=0.58, saturation=0.92)


def skin_color(name: str) -> tuple[float, float, float]:
    """Return the softer colour of the same hand in a scene of its own, where nothing has to stand out."""
    return _color(name, lightness=0.66, saturation=0.72, hue_shift=SKIN_HUE_SHIFT if name.startswith("right") else 0.0)


def _color(name: str, *, lightness: float, saturation: float, hue_shift: float = 0.0) -> tuple[float, float, float]:
    side, _, number = name.partition("_")
    hues = LEFT_HUES if side == "left" else RIGHT_HUES
    index = int(number) if number.isdecimal() else 0
    darker = 0.16 * ((index // len(hues)) % 2)  # the fourth to sixth hand of a side
    return colorsys.hls_to_rgb((hues[index % len(hues)] + hue_shift) % 1, lightness - darker, saturation)
