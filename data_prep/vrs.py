"""VRS recordings of Aria and Quest 3: a picture by its time, and the lens. Needs `pip install 'haptic[vrs]'`.

Both readers are behind one protocol, so nothing else knows of the libraries: `projectaria_tools` for Aria, whose
timestamps must be brought to the annotations' clock (TIME_CODE), `pyvrs` for Quest 3, whose calibration lies beside it.
"""

import json
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_prep.dataset import DamagedError, UnusableError
from data_prep.fisheye import Fisheye624
from data_prep.headsets import quaternion_pose

MAX_OFF_NS = 1_000_000  # of a picture from the time that is asked for: a millisecond
INSTALL = "pip install 'haptic[vrs]' (projectaria-tools reads Aria's recordings, vrs those of Quest 3)"


class Recording(Protocol):
    """An opened recording."""

    def read(self, stream: str, time_ns: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the picture of a time, RGB, as the sensor took it, or raise `DamagedError`."""
        ...

    def lens(self, stream: str) -> tuple[Fisheye624, Float[np.ndarray, "4 4"]]:
        """Return the lens and the place of a camera on the headset."""
        ...


class QuestRecording:
    """A recording of Quest 3, read by `pyvrs`."""

    def __init__(self, path: Path, calibration: Path) -> None:
        self._path, self._lenses = path, _quest_lenses(calibration)
        self._streams: dict[str, Any] = {}
        self._times_ns: dict[str, np.ndarray] = {}

    def read(self, stream: str, time_ns: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the picture of a time."""
        if not self._streams:
            self._open()
        index = _nearest(self._times_ns[stream], time_ns, where=f"{self._path}, {stream}")
        try:
            image = np.asarray(self._streams[stream][index].image_blocks[0])
        except (IndexError, RuntimeError, ValueError) as error:
            raise DamagedError(f"{self._path}, {stream}, {time_ns}: no picture ({error})") from None
        return _colored(image)

    def lens(self, stream: str) -> tuple[Fisheye624, Float[np.ndarray, "4 4"]]:
        """Return the lens and the place of a camera on the headset."""
        return self._lenses[stream]

    def _open(self) -> None:
        try:
            import pyvrs
        except ImportError:
            raise UnusableError(f"{self._path}: a VRS recording; to read it, {INSTALL}") from None
        try:
            reader = pyvrs.SyncVRSReader(str(self._path))
            found = sorted(name for name in reader.stream_ids if reader.might_contain_images(name))
            views = {name: reader.filtered_by_fields(stream_ids={name}, record_types={"data"}) for name in found}
            views = {name: view for name, view in views.items() if len(view)}
            sizes = {name: view[0].image_specs[0] for name, view in views.items()}
        except (ValueError, RuntimeError, OSError, IndexError) as error:
            raise DamagedError(f"{self._path}: not a readable recording ({error})") from None
        # A headset has more cameras than are annotated: those of the calibration's size count, in their order.
        for stream, (lens, _place) in sorted(self._lenses.items()):
            fitting = [
                name for name, spec in sizes.items() if (spec.width, spec.height) == (lens.width_px, lens.height_px)
            ]
            number = sorted(self._lenses).index(stream)
            if stream not in fitting and number >= len(fitting):
                raise DamagedError(f"{self._path}: no pictures of {lens.width_px} x {lens.height_px} for {stream}")
            view = views[stream if stream in fitting else fitting[number]]
            self._streams[stream] = view
            self._times_ns[stream] = np.round(np.array(view.get_timestamp_list()) * 1e9).astype(np.int64)


class AriaRecording:
    """A recording of Aria, read by `projectaria_tools`. `provider` stands in for the one it makes (tests)."""

    def __init__(self, path: Path, provider: Any = None) -> None:
        self._path = path
        self._provider = provider
        self._times_ns: dict[str, np.ndarray] = {}

    def read(self, stream: str, time_ns: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the picture of a time."""
        provider, name = self._opened(), self._id(stream)
        if stream not in self._times_ns:
            from projectaria_tools.core.sensor_data import TimeDomain

            self._times_ns[stream] = np.array(provider.get_timestamps_ns(name, TimeDomain.TIME_CODE), np.int64)
        index = _nearest(self._times_ns[stream], time_ns, where=f"{self._path}, {stream}")
        image, _record = provider.get_image_data_by_index(name, index)
        if not image.is_valid():
            raise DamagedError(f"{self._path}, {stream}, {time_ns}: no picture")
        return _colored(np.asarray(image.to_numpy_array()))

    def lens(self, stream: str) -> tuple[Fisheye624, Float[np.ndarray, "4 4"]]:
        """Return the lens and the place of a camera on the headset, as the factory measured them."""
        provider = self._opened()
        device = provider.get_device_calibration()
        label = provider.get_label_from_stream_id(self._id(stream))
        camera = None if device is None or label is None else device.get_camera_calib(label)
        if camera is None:
            raise DamagedError(f"{self._path}: no calibration of {stream} in it")
        width_px, height_px = (int(value) for value in camera.get_image_size())
        params = np.asarray(camera.get_projection_params(), np.float64).reshape(-1)
        place = np.asarray(camera.get_transform_device_camera().to_matrix(), np.float64)
        return Fisheye624(params, width_px, height_px), place

    def _id(self, stream: str) -> Any:
        from projectaria_tools.core.stream_id import StreamId

        return StreamId(stream)

    def _opened(self) -> Any:
        if self._provider is None:
            try:
                from projectaria_tools.core import data_provider
            except ImportError:
                raise UnusableError(f"{self._path}: a VRS recording; to read it, {INSTALL}") from None
            self._provider = data_provider.create_vrs_data_provider(str(self._path))
            if self._provider is None:
                raise DamagedError(f"{self._path}: not a readable recording of Aria")
        return self._provider


def open_recording(folder: Path, *, is_aria: bool) -> Recording:
    """Return the recording of a sequence."""
    path = folder / "recording.vrs"
    return AriaRecording(path) if is_aria else QuestRecording(path, folder / "camera_models.json")


def _quest_lenses(path: Path) -> dict[str, tuple[Fisheye624, np.ndarray]]:
    try:
        lenses = {}
        for one in json.loads(path.read_text()):
            params = np.asarray(one["projectionParams"], np.float64)
            place = one["T_Device_Camera"]
            lenses[one["stream_id"]] = (
                Fisheye624(params, int(one["imageWidth"]), int(one["imageHeight"])),
                quaternion_pose(place["quaternion_wxyz"], place["translation_xyz"]),
            )
        return lenses
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: not the calibration of Quest 3's cameras ({error})") from None


def _nearest(times_ns: np.ndarray, time_ns: int, *, where: str) -> int:
    index = int(np.abs(times_ns - time_ns).argmin()) if len(times_ns) else -1
    if index < 0 or abs(int(times_ns[index]) - time_ns) > MAX_OFF_NS:
        raise DamagedError(f"{where}: no picture within a millisecond of {time_ns} ns")
    return index


def _colored(image: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise DamagedError(f"a picture of type {image.dtype} and shape {image.shape}; expected 8 bit grey or RGB")
    return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
