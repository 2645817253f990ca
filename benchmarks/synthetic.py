"""How many labelled pairs of crop and whole frame one core renders per second, by its own CPU time, and what bounds it.

    python -m benchmarks.synthetic [--clips 8] [--frame-px 256] [--profile]

Every clip has two hands with arms, at least one held object and one light that casts shadows. A pair is one hand's crop
of 256 px with labels and visibility, and its whole frame (which two hands share). JPEG encoding and drawing the clip
count; painting skins and walls, which happens once per process, is shown apart.
"""

import argparse
import cProfile
import pstats
import time
from dataclasses import replace

import cv2
import numpy as np
import torch

from data_prep.synthetic import clip_members
from haptic.data.synthetic.clips import ClipDrawing, ClipsConfig, draw_clip
from haptic.data.synthetic.fast import ClipRenderer, SyntheticClips
from haptic.data.synthetic.gestures import GestureBook
from haptic.hand.model import load_hand_model

FUNCTIONS = 14


def main() -> None:
    """Render and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--crop-px", type=int, default=256)
    parser.add_argument("--frame-px", type=int, default=256)
    parser.add_argument("--profile", action="store_true", help="list the functions that take longest")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    config = ClipsConfig(
        num_frames=options.frames, two_hands_share=1, object_share=1, crop_px=options.crop_px, frame_px=options.frame_px
    )
    clips = SyntheticClips(config, seed=0, model=load_hand_model(None))
    book = GestureBook(clips.model)

    started = time.process_time()
    drawings = [_wanted(config, clips, book, rng=np.random.default_rng([0, index])) for index in range(options.clips)]
    drawn_s = time.process_time() - started
    started = time.process_time()
    for drawing in drawings:  # paints what is not painted yet
        ClipRenderer(drawing, config, clips.wardrobe, index=0)
    painted_s = time.process_time() - started

    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    num_pairs = num_bytes = 0
    encoded_s = 0.0
    started = time.process_time()
    for index, drawing in enumerate(drawings):
        clip = ClipRenderer(drawing, config, clips.wardrobe, index=index).clip()
        num_pairs += sum(len(crops) for crops in clip.crops.values())
        before = time.process_time()
        num_bytes += sum(len(data) for _name, data in clip_members(clip, hand_model=clips.model.name, seed=0))
        encoded_s += time.process_time() - before
    rendered_s = time.process_time() - started
    profile.disable()
    total_s = drawn_s + rendered_s
    print(f"{num_pairs} pairs of {options.crop_px} px crops and {options.frame_px} px frames, {num_bytes / 1e6:.1f} MB")
    print(f"{num_pairs / total_s:.1f} pairs per CPU second ({1e3 * total_s / num_pairs:.1f} ms each)")
    print(
        f"  drawing clips {1e3 * drawn_s / num_pairs:.1f} ms, "
        f"rendering {1e3 * (rendered_s - encoded_s) / num_pairs:.1f} ms, "
        f"JPEG and labels {1e3 * encoded_s / num_pairs:.1f} ms; skins and walls, once: {painted_s:.1f} s"
    )
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(FUNCTIONS)


def _wanted(config: ClipsConfig, clips: SyntheticClips, book: GestureBook, *, rng: np.random.Generator) -> ClipDrawing:
    """Draw clips until one has both hands in view, and leave it one light that casts shadows."""
    while True:
        drawing = draw_clip(config, clips.model, book, rng=rng)
        if len(drawing.scene.hands) == 2:
            lights = [replace(light, casts_shadow=number == 0) for number, light in enumerate(drawing.lights)]
            return replace(drawing, lights=tuple(lights))


if __name__ == "__main__":
    main()
