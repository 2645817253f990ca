"""The colour of each hand, the same in every picture, film and scene: warm for right hands, cool for left ones."""

import colorsys

RIGHT_HUES = (0.065, 0.115, 0.015)  # skin, sand, rose: the first, second and third right hand
LEFT_HUES = (0.565, 0.505, 0.635)  # steel blue, teal, violet


def hand_color(name: str) -> tuple[float, float, float]:
    """Return red, green and blue in [0, 1] (sRGB) for a hand named `right_0`, `left_0`, `right_1`, ..."""
    side, _, number = name.partition("_")
    hues = LEFT_HUES if side == "left" else RIGHT_HUES
    index = int(number) if number.isdecimal() else 0
    lightness = 0.66 if (index // len(hues)) % 2 == 0 else 0.5
    return colorsys.hls_to_rgb(hues[index % len(hues)], lightness, 0.72)
