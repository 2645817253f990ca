"""torch's own files, zip and older, read without running anything in them; only the tensors asked for are loaded.

`torch.load(weights_only=True)` refuses official checkpoints for the configuration objects they carry beside the
weights. Here such objects become empty placeholders, and nothing that a file names is ever imported or called.
"""

import io
import struct
import sys
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from haptic.files import Placeholder, RestrictedUnpickler

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
ZIP_START = b"PK\x03\x04"
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class StorageKey:
    """A run of numbers in the file, not read yet."""

    key: str
    dtype: torch.dtype
    num_values: int


@dataclass(frozen=True)
class TensorPlan:
    """A tensor as the pickle describes it; `TorchFile.tensor` reads its numbers."""

    storage: StorageKey
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def fits(self) -> bool:
        """Say whether every element lies inside the storage."""
        counts = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or any(not isinstance(n, int) or n < 0 for n in counts):
            return False
        if prod(self.size) == 0:
            return True
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.size, self.stride, strict=True))
        return last < self.storage.num_values


class TorchFile(ABC):
    """What `torch.save` put into a file: `content`, with `TensorPlan`s for tensors, and their numbers on demand."""

    content: Any
    placeholders: list[str]  # classes the file names that were not loaded

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: dict[str, Tensor] = {}

    def tensor(self, plan: TensorPlan) -> Tensor:
        """Read the numbers of one tensor. Tensors that share numbers in the file share them here."""
        if not plan.fits():
            raise ValueError(f"{self.path}: damaged: a tensor of shape {plan.size} reaches beyond its numbers")
        if plan.storage.key not in self._read:
            raw = self._bytes_of(plan.storage)
            self._read[plan.storage.key] = (
                torch.frombuffer(raw, dtype=plan.storage.dtype) if raw else torch.empty(0, dtype=plan.storage.dtype)
            )
        return self._read[plan.storage.key].as_strided(plan.size, plan.stride, plan.offset)

    @abstractmethod
    def _bytes_of(self, storage: StorageKey) -> bytearray:
        """Return the raw little-endian numbers of a storage."""


def open_torch_file(path: Path) -> TorchFile:
    """Open a file of `torch.save`, of any version of torch that wrote zip or the format before it.

    Raises:
        ValueError: the file is missing, empty, cut short, damaged, or not one that torch wrote.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {what}; expected a checkpoint, such as hamer.ckpt; check the path")
    with path.open("rb") as file:
        start = file.read(len(ZIP_START))
    if not start:
        raise ValueError(f"{path}: the file is empty; expected a checkpoint")
    try:
        if zipfile.is_zipfile(path):
            return _ZipFile(path)
        if start == ZIP_START:
            raise ValueError(f"{path}: the checkpoint is cut short ({path.stat().st_size} bytes); fetch it again")
        return _LegacyFile(path)
    except Exception as error:  # a damaged pickle or archive can raise anything
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(
            f"{path}: not a checkpoint, or a damaged one ({type(error).__name__}: {_first_line(error)}); expected a "
            "file written by torch.save"
        ) from None


class _ZipFile(TorchFile):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._archive = zipfile.ZipFile(path)
        pickles = [name for name in self._archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{path}: a zip archive, but not one that torch wrote (no data.pkl in it)")
        self._root = pickles[0].removesuffix("data.pkl")
        byte_order = self._root + "byteorder"
        if byte_order in self._archive.namelist() and self._archive.read(byte_order) != b"little":
            raise ValueError(f"{path}: the numbers are big-endian; save the checkpoint again on an ordinary machine")
        with self._archive.open(pickles[0]) as file:
            unpickler = _WeightsUnpickler(io.BytesIO(file.read()), name=str(path))
            self.content = unpickler.load()
        self.placeholders = unpickler.placeholders

    def _bytes_of(self, storage: StorageKey) -> bytearray:
        name = f"{self._root}data/{storage.key}"
        num_bytes = storage.num_values * storage.dtype.itemsize
        try:
            if self._archive.getinfo(name).file_size != num_bytes:
                raise ValueError(f"{self.path}: damaged: {name} has another length than the {num_bytes} bytes expected")
            return bytearray(self._archive.read(name))
        except (KeyError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError) as error:
            raise ValueError(f"{self.path}: damaged: {name} cannot be read ({_first_line(error)})") from None


class _LegacyFile(TorchFile):
    """Before torch 1.6: five pickles in a row, then every storage as its length and its numbers."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as file:
            if RestrictedUnpickler(file, name=str(path), placeholders=True).load() != LEGACY_MAGIC:
                raise ValueError(f"{path}: a pickle, but not a checkpoint; expected a file written by torch.save")
            for _version_and_system in range(2):
                RestrictedUnpickler(file, name=str(path), placeholders=True).load()
            unpickler = _WeightsUnpickler(file, name=str(path))
            self.content = unpickler.load()
            self.placeholders = unpickler.placeholders
            keys = RestrictedUnpickler(file, name=str(path)).load()
            self._places = _legacy_places(file, [str(key) for key in keys], unpickler.storages, path)

    def _bytes_of(self, storage: StorageKey) -> bytearray:
        if storage.key not in self._places:
            raise ValueError(f"{self.path}: damaged: the numbers of storage {storage.key} are not in the file")
        with self.path.open("rb") as file:
            file.seek(self._places[storage.key])
            return bytearray(file.read(storage.num_values * storage.dtype.itemsize))


def _legacy_places(
    file: io.BufferedReader, keys: list[str], storages: dict[str, StorageKey], path: Path
) -> dict[str, int]:
    """Return where in the file the numbers of each storage begin."""
    file_size = path.stat().st_size
    places = {}
    for key in keys:
        header = file.read(8)
        num_values = struct.unpack("<q", header)[0] if len(header) == len(b"8 bytes.") else -1
        storage = storages[key]
        end = file.tell() + num_values * storage.dtype.itemsize
        if num_values != storage.num_values or end > file_size:
            raise ValueError(f"{path}: the checkpoint is cut short or damaged at storage {key}; fetch it again")
        places[key] = file.tell()
        file.seek(end)
    return places


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


def _plan(storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> TensorPlan:
    """Take the place of `torch._utils._rebuild_tensor_v2`."""
    if not isinstance(storage, StorageKey):
        raise ValueError("a tensor without numbers")
    return TensorPlan(storage, offset, tuple(size), tuple(stride))


def _plan_of_parameter(data: Any, *_rest: Any) -> Any:
    """Take the place of `torch._utils._rebuild_parameter`."""
    return data


def _size(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values)


REBUILDERS: dict[tuple[str, str], Callable[..., Any] | _StorageType] = {
    ("torch._utils", "_rebuild_tensor"): _plan,
    ("torch._utils", "_rebuild_tensor_v2"): _plan,
    ("torch._utils", "_rebuild_parameter"): _plan_of_parameter,
    ("torch", "Size"): _size,
    **{("torch", name): _StorageType(dtype) for name, dtype in DTYPES.items()},
}


class _WeightsUnpickler(RestrictedUnpickler):
    """Describes tensors instead of building them; whatever is no plain data becomes a placeholder."""

    def __init__(self, file: io.BufferedIOBase, *, name: str) -> None:
        super().__init__(file, name=name, placeholders=True)
        self.placeholders: list[str] = []
        self.storages: dict[str, StorageKey] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return a rebuilder of ours, plain data, or a placeholder."""
        if (module, name) in REBUILDERS:
            return REBUILDERS[module, name]
        found = super().find_class(module, name)
        if found is Placeholder and f"{module}.{name}" not in self.placeholders:
            self.placeholders.append(f"{module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> StorageKey:
        """Note where a tensor's numbers lie."""
        match pid:
            case ("storage", _StorageType(dtype=dtype), str(key), str(), int(num_values), *view):
                if view not in ([], [None]):
                    raise ValueError("views of storages, which no checkpoint of a network needs")
                self.storages[key] = StorageKey(key, dtype, num_values)
                return self.storages[key]
        raise ValueError(f"an unknown reference {str(pid)[:80]!r}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


assert sys.byteorder == "little", "checkpoints are read as little-endian numbers"
