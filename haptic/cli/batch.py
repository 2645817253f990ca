"""Many videos, one folder of outputs each: finished ones are skipped, failing ones do not stop the rest.

A folder that is not ours is never touched. A video's outputs are written into a hidden folder beside the final one and
renamed when all are complete, so that a folder under its own name is always whole. Its summary.json says from which
input and options it was made.
"""

import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import haptic
from haptic.cli.demo import describe_demo_error
from haptic.cli.messages import DEBUG, describe_error, say
from haptic.export.glb import write_glb
from haptic.export.html import write_html
from haptic.export.npz import write_npz
from haptic.export.summary import build_summary, write_summary
from haptic.files import SHOWN_NAME, sha256_of
from haptic.hand.model import HandModel
from haptic.perception.video import VideoInput, VideoSource, open_video
from haptic.pipeline import Network, PipelineConfig, Progress, Result, reconstruct, timed
from haptic.vis.overlay import write_overlay
from haptic.vis.plots import write_plot

SUMMARY = "summary.json"
OUR_FILES = {SUMMARY, "trajectory.npz", "scene.glb", "scene.html", "overlay.mp4", "trajectory.png"}
DRAFT = ".draft-"
LONGEST_NAME = 120  # bytes of a result's name that its draft repeats whole


@dataclass(frozen=True)
class OutputOptions:
    """Which files are written besides trajectory.npz and summary.json."""

    overlay: bool = True
    glb: bool = True
    html: bool = True
    plot: bool = True
    save_verts: bool = False


@dataclass(frozen=True)
class BatchOptions:
    """Everything that holds for all videos of a run."""

    out: Path
    pipeline: PipelineConfig
    outputs: OutputOptions
    hand_model: HandModel
    network: Network | None
    overwrite: bool
    fps: float
    checkpoint: Path | None


def run_batch(inputs: Sequence[VideoInput], options: BatchOptions, progress: Progress) -> int:
    """Reconstruct every input; return 0 if all went well and 2 if any could not be used."""
    _require_writable(options.out)
    failures = 0
    seen: set[tuple[Path, ...]] = set()
    for number, item in enumerate(inputs, start=1):
        files = tuple(file.resolve() for file in item.files)
        if files in seen:
            progress.note(f"{item.name}: named twice; done once")
            continue
        seen.add(files)
        if len(inputs) > 1:
            progress.note(f"[{number}/{len(inputs)}] {item.name}")
        try:
            run_one(item, options, progress)
        except Exception as error:  # whatever it is, the other videos are not lost for it
            failures += 1
            _report_failure(item, error, options)
    if failures and len(inputs) > 1:
        say(f"{failures} of {len(inputs)} videos failed")
    return 2 if failures else 0


def run_one(item: VideoInput, options: BatchOptions, progress: Progress) -> None:
    """Reconstruct one video into its folder, or say that it is done already."""
    source = open_video(item, fps=options.fps)
    source_hash = _hash_of_files(item)
    key = run_key(source_hash, options)
    folder = choose_folder(item, options.out, source_hash)
    if not options.overwrite and (summary := _read_summary(folder)) is not None:
        if _is_finished(folder, summary, key):
            progress.note(f"{item.name}: done already, in {folder} (--overwrite does it again)")
            return
        progress.note(f"{item.name}: {folder} was made with other options or another version; it is replaced when done")
    result = reconstruct(
        source,
        options.pipeline,
        hand_model=options.hand_model,
        network=options.network,
        progress=progress,
    )
    with _whole_folder(folder) as draft:
        _write_outputs(draft, result, source, options, progress, details={"run_key": key, "input_hash": source_hash})
    _tell(item, folder, result, options.hand_model, progress)


def choose_folder(item: VideoInput, out: Path, source_hash: str) -> Path:
    """Return the folder for a video's outputs: its name, with a number if that is another video's.

    Raises:
        ValueError: the name is taken by something that this program did not make.
    """
    number = 1
    while True:
        folder = out / (item.name if number == 1 else f"{item.name}_{number}")
        summary = _read_summary(folder)
        if summary is not None:
            same = summary.get("details", {}).get("input_hash") == source_hash
            same = same or summary.get("video", {}).get("source") == str(_source_path(item))
            if same:
                return folder
        elif not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return folder
        else:
            raise ValueError(
                f"{folder}: is there already and is no result of ours, so nothing was written; choose another --out"
            )
        number += 1


def run_key(source_hash: str, options: BatchOptions) -> str:
    """Return a hash of the input's bytes, the options and the version: the same key means the same outputs."""
    digest = hashlib.sha256(f"{haptic.__version__} {source_hash}".encode())
    for path in (options.checkpoint, options.pipeline.detections, options.pipeline.camera.cameras):
        digest.update(sha256_of(path).encode() if path and path.is_file() else b"-")
    settings = {"pipeline": asdict(options.pipeline), "outputs": asdict(options.outputs), "fps": options.fps}
    settings["hand_model"] = options.hand_model.name
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _hash_of_files(item: VideoInput) -> str:
    digest = hashlib.sha256()
    for file in item.files:
        digest.update(sha256_of(file).encode())
    return digest.hexdigest()


def _source_path(item: VideoInput) -> Path:
    """Return what the summary calls the video's source: its file, or its pictures' folder."""
    first = item.files[0]
    return (first if len(item.files) == 1 else first.parent).resolve()


def _write_outputs(
    draft: Path,
    result: Result,
    source: VideoSource,
    options: BatchOptions,
    progress: Progress,
    *,
    details: dict[str, Any],
) -> None:
    model, found, outputs = options.hand_model, result.reconstruction, options.outputs
    seconds = dict(result.seconds)
    details = dict(result.details) | details | {"notes": list(result.notes)}

    with timed(seconds, "trajectory.npz"):
        write_npz(draft / "trajectory.npz", found, model, save_verts=outputs.save_verts)
    if outputs.glb:
        with timed(seconds, "scene.glb"):
            details["glb_skin_error_mm"] = round(write_glb(draft / "scene.glb", found, model), 3)
    if outputs.html:
        with timed(seconds, "scene.html"):
            details["html_every_nth_frame"] = write_html(draft / "scene.html", found, model)
    if outputs.plot:
        with timed(seconds, "trajectory.png"):
            write_plot(draft / "trajectory.png", found, model, result.predicted_img)
    if outputs.overlay:
        with timed(seconds, "overlay.mp4"):
            count = len(found.frame_time_s)
            frames = progress.track("overlay", source.frames(stop=count), count)
            pictures = ((frame.index, frame.time_s, frame.image) for frame in frames)
            write_overlay(draft / "overlay.mp4", pictures, found, model)

    details["files"] = sorted(path.name for path in draft.iterdir())
    summary = build_summary(
        found,
        model,
        source=str(source.info.path.resolve()),
        intrinsics_source=result.camera_source,
        seconds=seconds,
        options=asdict(options.pipeline),
        predicted_img=result.predicted_img,
        details=details,
    )
    write_summary(draft / SUMMARY, summary)


def _tell(item: VideoInput, folder: Path, result: Result, model: HandModel, progress: Progress) -> None:
    for note in result.notes:
        progress.note(f"{item.name}: {note}")
    hands = result.reconstruction.hands
    if not hands:
        progress.note(f"{item.name}: no hand found; an empty result is in {folder}")
        return
    num_frames = len(result.reconstruction.frame_time_s)
    for name, hand in hands.items():
        observed = int(hand.observed.sum())
        quality = result.quality.get(name)
        error = f", {100 * quality.within_tenth_share:.0f} % of joints within 10 % of the box" if quality else ""
        if name in result.details["refinement"]:
            before = result.details["refinement"][name]["before"]
            error += f" (before refinement {100 * before['within_tenth_share']:.0f} %)"
        progress.note(f"{item.name}: {name}: seen in {observed} of {num_frames} frames{error}")
    for line in describe_demo_error(item.files[0], result.reconstruction, model):
        progress.note(line)
    look_at = [name for name in ("overlay.mp4", "scene.html", "trajectory.png") if (folder / name).is_file()]
    progress.note(f"{item.name}: written to {folder}" + (f"; look at {look_at[0]} first" if look_at else ""))


def _read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a folder that this program made, else None."""
    try:
        summary = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(summary, dict) and isinstance(summary.get("details"), dict) and "run_key" in summary["details"]
    return summary if is_ours else None


def _is_finished(folder: Path, summary: dict[str, Any], key: str) -> bool:
    details = summary["details"]
    return details["run_key"] == key and all((folder / name).is_file() for name in details.get("files", []))


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Give a hidden folder to write into; it takes the place of `folder` when all is written, and goes otherwise.

    What people put beside our files in an older result stays. Drafts of runs that were killed are removed first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_dead_drafts(folder)
    own = f"{_draft_mark(folder)}{os.getpid()}-"
    draft = Path(tempfile.mkdtemp(prefix=own, dir=folder.parent))
    draft.chmod(0o755)
    try:
        yield draft
        if folder.exists():
            for foreign in [path for path in folder.iterdir() if path.name not in OUR_FILES]:
                foreign.replace(draft / foreign.name)
            old = Path(tempfile.mkdtemp(prefix=own, dir=folder.parent))
            folder.replace(old / "replaced")
            draft.replace(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _draft_mark(folder: Path) -> str:
    """Return how the names of a folder's drafts on this machine begin; no disk takes more than 255 letters."""
    name = folder.name
    if len(name.encode()) > LONGEST_NAME:
        name = f"{name[:SHOWN_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f".{name}{DRAFT}{socket.gethostname()[:SHOWN_NAME]}-"


def _remove_dead_drafts(folder: Path) -> None:
    """Remove what killed runs of this machine left of this video; a whole result among it is put back first."""
    mark = _draft_mark(folder)
    for draft in folder.parent.glob(f"{glob.escape(mark)}*"):
        process = draft.name.removeprefix(mark).partition("-")[0]
        if process.isdigit() and not _is_running(int(process)):
            if (draft / "replaced").is_dir() and not folder.exists():
                (draft / "replaced").replace(folder)
            shutil.rmtree(draft, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _require_writable(out: Path) -> None:
    """Try the output folder before hours of work."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; expected a folder for the outputs; choose another name")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(f"--out {out}: cannot be written to ({error.strerror}); choose another folder") from None


def _report_failure(item: VideoInput, error: Exception, options: BatchOptions) -> None:
    text = describe_error(error, place=options.out / item.name)
    names = {str(file) for file in item.files} | {str(item.files[0].parent)}
    say(text if any(name in text for name in names) else f"{item.files[0]}: {text}")
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
