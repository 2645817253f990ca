"""Many videos, one folder of outputs each: finished ones are skipped, failing ones do not stop the rest.

A video's outputs are written into a hidden folder beside the final one and renamed when all are complete, so that a
folder under its own name is always whole. The key in its summary.json says from which input and options it was made.
"""

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import haptic
from haptic.cli.demo import describe_demo_error
from haptic.cli.messages import describe_error
from haptic.export.glb import write_glb
from haptic.export.html import write_html
from haptic.export.npz import write_npz
from haptic.export.summary import build_summary, write_summary
from haptic.files import sha256_of
from haptic.hand.model import HandModel
from haptic.perception.video import VideoInput, VideoSource, open_video
from haptic.pipeline import Network, PipelineConfig, Progress, Result, reconstruct
from haptic.vis.overlay import write_overlay
from haptic.vis.plots import write_plot

SUMMARY = "summary.json"


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
    for number, item in enumerate(inputs, start=1):
        if len(inputs) > 1:
            progress.note(f"[{number}/{len(inputs)}] {item.name}")
        try:
            run_one(item, options, progress)
        except (ValueError, OSError) as error:
            failures += 1
            _report_failure(item, error)
    if failures and len(inputs) > 1:
        print(f"infer.py: {failures} of {len(inputs)} videos failed", file=sys.stderr)  # noqa: T201
    return 2 if failures else 0


def run_one(item: VideoInput, options: BatchOptions, progress: Progress) -> None:
    """Reconstruct one video into its folder, or say that it is done already."""
    folder = options.out / item.name
    key = run_key(item, options)
    if not options.overwrite and _is_finished(folder, key):
        progress.note(f"{item.name}: done already, in {folder} (--overwrite does it again)")
        return
    source = open_video(item, fps=options.fps)
    started = time.perf_counter()
    result = reconstruct(
        source,
        options.pipeline,
        hand_model=options.hand_model,
        network=options.network,
        progress=progress,
    )
    with _whole_folder(folder) as draft:
        _write_outputs(draft, result, source, options, progress, key=key, started=started)
    _tell(item, folder, result, progress)


def run_key(item: VideoInput, options: BatchOptions) -> str:
    """Return a hash of the input's bytes, the options and the version: the same key means the same outputs."""
    digest = hashlib.sha256(haptic.__version__.encode())
    for file in item.files:
        if not file.is_file():
            raise ValueError(f"{file}: no such file; check the path")
        digest.update(sha256_of(file).encode())
    for path in (options.checkpoint, options.pipeline.detections, options.pipeline.camera.cameras):
        digest.update(sha256_of(path).encode() if path and path.is_file() else b"-")
    settings = {"pipeline": asdict(options.pipeline), "outputs": asdict(options.outputs), "fps": options.fps}
    settings["hand_model"] = options.hand_model.name
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _write_outputs(
    draft: Path,
    result: Result,
    source: VideoSource,
    options: BatchOptions,
    progress: Progress,
    *,
    key: str,
    started: float,
) -> None:
    model, found, outputs = options.hand_model, result.reconstruction, options.outputs
    seconds = dict(result.seconds)
    details = dict(result.details) | {"run_key": key, "notes": list(result.notes)}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[stage] = time.perf_counter() - start

    with timed("trajectory.npz"):
        write_npz(draft / "trajectory.npz", found, model, save_verts=outputs.save_verts)
    if outputs.glb:
        with timed("scene.glb"):
            details["glb_skin_error_mm"] = round(write_glb(draft / "scene.glb", found, model), 3)
    if outputs.html:
        with timed("scene.html"):
            details["html_every_nth_frame"] = write_html(draft / "scene.html", found, model)
    if outputs.plot:
        with timed("trajectory.png"):
            write_plot(draft / "trajectory.png", found, model, result.predicted_img)
    if outputs.overlay:
        with timed("overlay.mp4"):
            count = len(found.frame_time_s)
            frames = progress.track("overlay", source.frames(stop=count), count)
            pictures = ((frame.index, frame.time_s, frame.image) for frame in frames)
            write_overlay(draft / "overlay.mp4", pictures, found, model)

    summary = build_summary(
        found,
        model,
        source=str(source.info.path),
        intrinsics_source=result.camera_source,
        seconds=seconds,
        options=asdict(options.pipeline),
        predicted_img=result.predicted_img,
        details=details,
    )
    write_summary(draft / SUMMARY, summary)


def _tell(item: VideoInput, folder: Path, result: Result, progress: Progress) -> None:
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
        progress.note(f"{item.name}: {name}: seen in {observed} of {num_frames} frames{error}")
    for line in describe_demo_error(item.files[0], result.reconstruction):
        progress.note(line)
    progress.note(f"{item.name}: written to {folder}")


def _is_finished(folder: Path, key: str) -> bool:
    try:
        summary = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("details", {}).get("run_key") == key


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Give a hidden folder to write into; it takes the place of `folder` when all is written, and goes otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    draft.chmod(0o755)
    try:
        yield draft
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            folder.replace(old / "replaced")
            draft.replace(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _require_writable(out: Path) -> None:
    """Try the output folder before hours of work."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; expected a folder for the outputs; choose another name")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass


def _report_failure(item: VideoInput, error: Exception) -> None:
    text = describe_error(error)
    name = str(item.files[0])
    print(f"infer.py: {text if name in text else f'{name}: {text}'}", file=sys.stderr)  # noqa: T201
