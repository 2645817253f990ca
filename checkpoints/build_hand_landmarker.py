"""Build `hand_landmarker.task`, the hand detector's model, from the wheel of mediapipe 0.10.21 (Apache-2.0).

    python checkpoints/build_hand_landmarker.py [--wheel FILE] [--out FILE]

Newer wheels carry no model files, and the official bundle is a separate download. The 0.10.21 wheel holds the same two
networks; a `.task` bundle is an uncompressed zip of them under the names the library looks for. Without `--wheel`
pip fetches it (35 MB, never installed). The result is the same on every machine, byte by byte.
"""

import argparse
import hashlib
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "mediapipe==0.10.21"
# Which platform's wheel is fetched does not matter, the networks are the same; this one exists for certain.
WHEEL_TARGET = ("--python-version", "3.12", "--platform", "manylinux_2_28_x86_64")
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
ZIP_HEADER_BYTES = 30
# Unaligned networks are copied (and complained about) by the library when it maps the bundle.
ALIGNMENT_BYTES = 16
PADDING_FIELD_ID = 0xD935  # the id that Android's zipalign uses for padding


@dataclass(frozen=True)
class Part:
    """One network of the bundle: where the wheel has it, what the bundle calls it, and its hash."""

    name_in_wheel: str
    name_in_bundle: str
    sha256: str


PARTS = (
    Part(
        "mediapipe/modules/palm_detection/palm_detection_full.tflite",
        "hand_detector.tflite",
        "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
    ),
    Part(
        "mediapipe/modules/hand_landmark/hand_landmark_full.tflite",
        "hand_landmarks_detector.tflite",
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
    ),
)


def main() -> None:
    """Read the command line, build, say what was built."""
    parser = argparse.ArgumentParser(description="Build hand_landmarker.task from the wheel of mediapipe 0.10.21.")
    parser.add_argument("--wheel", type=Path, help="the wheel, if it is here already; else pip fetches it")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("hand_landmarker.task"))
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            build_bundle(args.wheel or download_wheel(Path(folder)), args.out)
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{args.out}  sha256 {hashlib.sha256(args.out.read_bytes()).hexdigest()}\n")


def download_wheel(folder: Path) -> Path:
    """Let pip fetch the wheel into `folder` without installing it."""
    command = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, *WHEEL_TARGET, "-d", str(folder)], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("mediapipe-*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"pip could not download {PACKAGE} ({reason}); pass the wheel with --wheel FILE")
    return wheels[0]


def build_bundle(wheel: Path, out: Path) -> None:
    """Write the bundle: stored, not compressed, since the library maps the networks in place.

    Raises:
        ValueError: the wheel lacks a network, or holds another one than the tried one.
    """
    networks = [(part.name_in_bundle, _read_part(wheel, part)) for part in PARTS]
    temporary = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as bundle:
            for name, data in networks:
                entry = zipfile.ZipInfo(name, ZIP_DATE)
                entry.create_system = 3  # unix, wherever this runs: the bytes must not depend on the machine
                entry.external_attr = 0o644 << 16
                entry.extra = _padding(file.tell() + ZIP_HEADER_BYTES + len(name))
                bundle.writestr(entry, data)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _padding(position: int) -> bytes:
    """Return an extra field of a zip entry after which the data starts at a multiple of the alignment."""
    filler = -(position + 4) % ALIGNMENT_BYTES
    return struct.pack("<HH", PADDING_FIELD_ID, filler) + bytes(filler)


def _read_part(wheel: Path, part: Part) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(part.name_in_wheel)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"{wheel}: cannot read {part.name_in_wheel} ({error}); expected the wheel of {PACKAGE}"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != part.sha256:
        raise ValueError(
            f"{wheel}: {part.name_in_wheel} has sha256 {found}, expected {part.sha256}; use the wheel of {PACKAGE}"
        )
    return data


if __name__ == "__main__":
    main()
