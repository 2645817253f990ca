"""What a person does with shards: check them, look at them. Run through `python -m haptic.data.samples`."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from haptic.data.hamer_tars import HamerSet
from haptic.data.readers import ClipSet, Picture, ShardSet, Window
from haptic.data.samples import HandLabels
from haptic.data.shards import ShardStore, expand_shards, scan_shard, shard_name
from haptic.files import atomic_path
from haptic.geometry.cameras import project
from haptic.hand.joints import PARENTS_21

FINGER_COLORS = ((230, 60, 60), (240, 160, 30), (60, 190, 60), (60, 120, 240), (180, 70, 220))
WRIST_COLOR = (255, 255, 255)
CELL_PX = 224
LINE_PX = 20
WEIGHTS = (
    "joints_img_weight", "joints_cam_weight", "place_weight", "params_weight", "betas_weight", "camera_weight",
)  # fmt: skip
MAX_REPROJECTION_PX = 2.0  # between joints_img and joints_cam seen by K, where all three are known


@dataclass
class ShardReport:
    """What was found in the shards."""

    num_clips: int = 0
    num_frames: int = 0
    hands: Counter[str] = field(default_factory=Counter)
    known: dict[str, float] = field(default_factory=dict)  # frames of which something is known
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, labels: HandLabels, reprojection_px: Float[np.ndarray, " N"]) -> None:
        """Count a hand's labels."""
        num_frames = len(labels.frame_index)
        self.num_frames += num_frames
        for name in WEIGHTS:
            weight = getattr(labels, name)
            self.known[name] = self.known.get(name, 0.0) + float((weight > 0).float().mean()) * num_frames
        self._keep("box side, px", labels.box_side_px.numpy())
        placed = labels.place_weight > 0
        self._keep("wrist depth, m", labels.joints_cam[placed, 0, 2].numpy())
        focal = labels.camera.K[labels.camera_weight > 0, 0, 0].numpy()
        self._keep("focal length, px", focal)
        self._keep("largest |beta|", labels.params.betas.abs().amax(dim=-1).numpy())
        self._keep("2D against projected 3D, px", reprojection_px)

    def lines(self) -> Iterator[str]:
        """Tell it."""
        hands = ", ".join(f"{count} {name}" for name, count in sorted(self.hands.items()))
        yield f"{self.num_clips} clips, {self.num_frames} hand-frames ({hands or 'no hands'})"
        for name, count in self.known.items():
            yield f"  {name:20s} known for {count / max(self.num_frames, 1):6.1%}"
        for name, parts in self.values.items():
            values = np.concatenate(parts)
            if len(values):
                low, middle, high = np.percentile(values, [0, 50, 100])
                yield f"  {name:28s} {low:9.3f} ... {middle:9.3f} ... {high:9.3f}  (least, median, most)"
        if self.faults:
            yield f"{len(self.faults)} faults; the first: {self.faults[0]}"
        else:
            yield "no faults"

    def _keep(self, name: str, values: np.ndarray) -> None:
        self.values.setdefault(name, []).append(values)


def check_shards(shards: Sequence[str], *, kind: str = "haptic", decode: bool = True) -> ShardReport:
    """Read everything in the shards and say what is there and what is wrong.

    Raises:
        ValueError: no shards match.
    """
    report = ShardReport()
    store = ShardStore()
    for url in expand_shards(tuple(shards)):
        local = store.local_path(url)
        fault = scan_shard(local).fault  # anew: a list kept beside the shard may be older than the damage
        if fault:
            report.faults.append(f"{shard_name(url)}: {fault}")
        try:
            one = _open_set(url, kind, store)
        except ValueError as error:
            if not fault:
                report.faults.append(str(error))
            continue
        report.faults += [text for text in one.faults if fault not in text or not fault]
        report.num_clips += len({one.key(track)[0] for track in range(len(one.num_frames))})
        for track in range(len(one.num_frames)):
            _check_track(one, track, report, decode=decode)
    return report


def contact_sheet(shard: str, *, kind: str = "haptic", num_cells: int = 24) -> UInt8[np.ndarray, "H W 3"]:
    """Return frames spread over a shard's hands, as a right hand each: the crop and the whole, with labels drawn.

    Lines are the 3D joints as K sees them, dots the 2D joints (hollow: hidden), the square is the network's box.
    """
    one = _open_set(shard, kind, ShardStore())
    total = int(one.num_frames.sum())
    ends = np.cumsum(one.num_frames)
    cells = []
    for number in np.unique(np.linspace(0, total - 1, num_cells).round().astype(int)):
        track = int(np.searchsorted(ends, number, side="right"))
        place = int(number - (ends[track] - one.num_frames[track]))
        cells.append(_cell(one.open(track).window([place])))
    columns = int(np.ceil(np.sqrt(len(cells) / 2)))
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], axis=1) for start in range(0, len(cells), columns)]
    return np.concatenate(rows)


def draw_labels(picture: Picture, labels: HandLabels, place: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture with one frame's labels drawn over it."""
    canvas = np.ascontiguousarray(picture.pixels)
    thin = max(1, canvas.shape[1] // 200)

    def at(points_img: torch.Tensor) -> np.ndarray:
        return np.asarray(points_img, np.float64) * picture.scale + picture.offset_px

    points = at(labels.joints_img[place])
    is_known = labels.joints_img_weight[place] > 0
    if bool(labels.place_weight[place] > 0):
        seen = at(project(labels.joints_cam[place], labels.camera.K[place]))
        lined = labels.joints_cam_weight[place] > 0
    else:
        seen, lined = points, is_known
    for joint, parent in enumerate(PARENTS_21):
        if parent >= 0 and lined[joint] and lined[parent]:
            _line(canvas, seen[parent], seen[joint], FINGER_COLORS[(joint - 1) // 4], thin)
    for joint in range(21):
        if is_known[joint]:
            hidden = int(labels.joints_visible[place, joint]) == 0
            color = FINGER_COLORS[(joint - 1) // 4] if joint else WRIST_COLOR
            cv2.circle(canvas, _pixel(points[joint]), 32 * thin, color, 1 if hidden else -1, cv2.LINE_AA, 4)
    half = float(labels.box_side_px[place]) / 2
    corners = labels.box_center_img[place] + half * torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    for first, second in zip(at(corners), np.roll(at(corners), -1, axis=0), strict=True):
        _line(canvas, first, second, (255, 255, 0), 1)
    return canvas


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of `python -m haptic.data.samples`."""
    parser = argparse.ArgumentParser(prog="python -m haptic.data.samples", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="counts, label statistics, and the first fault by shard and key")
    check.add_argument("shards", nargs="+", metavar="SHARD", help="paths, patterns or pipe: commands")
    check.add_argument("--labels-only", action="store_true", help="do not decode the pictures")
    sheet = commands.add_parser("sheet", help="a picture of a shard's hands with their labels drawn")
    sheet.add_argument("shard", metavar="SHARD")
    sheet.add_argument("picture", type=Path, metavar="PICTURE.png")
    sheet.add_argument("--cells", type=int, default=24)
    for command in (check, sheet):
        command.add_argument("--format", choices=("haptic", "hamer"), default="haptic")
    options = parser.parse_args(arguments)
    try:
        if options.command == "check":
            report = check_shards(options.shards, kind=options.format, decode=not options.labels_only)
            sys.stdout.write("\n".join(report.lines()) + "\n")
            if report.faults:
                sys.exit(1)
        else:
            picture = contact_sheet(options.shard, kind=options.format, num_cells=options.cells)
            with atomic_path(options.picture) as temporary:
                cv2.imwrite(str(temporary), picture[..., ::-1])
    except ValueError as error:
        sys.exit(f"error: {error}")


def _open_set(url: str, kind: str, store: ShardStore) -> ShardSet:
    return (HamerSet if kind == "hamer" else ClipSet)(shard_name(url), url, store=store)


def _check_track(one: ShardSet, track: int, report: ShardReport, *, decode: bool) -> None:
    try:
        opened = one.open(track)
        labels = opened.labels
        if decode:
            for place in range(len(labels.frame_index)):
                opened.window([place])
    except ValueError as error:
        report.faults.append(str(error))
        return
    off_px = _reprojection_px(labels)
    if len(off_px) and off_px.max() > MAX_REPROJECTION_PX:
        key, hand = one.key(track)
        report.faults.append(
            f"{one.name}: {key}.{hand}: joints_img and joints_cam seen by K are {off_px.max():.1f} px apart; expected "
            f"at most {MAX_REPROJECTION_PX:g}. Is a camera mirrored, or K of another image size?"
        )
    report.hands["right" if opened.was_right else "left"] += 1
    report.add(labels, off_px)


def _reprojection_px(labels: HandLabels) -> np.ndarray:
    known = (labels.joints_img_weight > 0) & (labels.joints_cam_weight > 0)
    known &= ((labels.place_weight > 0) & (labels.camera_weight > 0))[:, None]
    seen = project(labels.joints_cam, labels.camera.K)
    return (seen - labels.joints_img).norm(dim=-1)[known].numpy()


def _cell(window: Window) -> np.ndarray:
    """Return crop and full frame side by side, with the key under them."""
    pictures = [draw_labels(picture, window.labels, 0) for picture in (window.crops[0], window.frames[0])]
    cell = np.zeros((CELL_PX + LINE_PX, 2 * CELL_PX, 3), np.uint8)
    for number, picture in enumerate(pictures):
        ratio = (CELL_PX - 4) / max(picture.shape[:2])
        small = cv2.resize(picture, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        left = number * CELL_PX + 2
        cell[2 : 2 + small.shape[0], left : left + small.shape[1]] = small
    text = (
        f"{window.key.split('/', 1)[1]}{'' if window.was_right else ' (flipped)'} {int(window.labels.frame_index[0])}"
    )
    cv2.putText(cell, text, (4, CELL_PX + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return cell


def _line(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, color: tuple[int, ...], width: int) -> None:
    cv2.line(canvas, _pixel(start), _pixel(end), color, width, cv2.LINE_AA, 4)


def _pixel(point: np.ndarray) -> tuple[int, int]:
    """Return a place in sixteenths of a pixel, within what OpenCV can draw."""
    x, y = np.clip(point * 16, -200_000, 200_000).round().astype(int)
    return int(x), int(y)
