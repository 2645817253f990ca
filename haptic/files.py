"""Files: reading what is not ours without running it, writing so that nothing is left half done, finding what ships."""

import hashlib
import io
import os
import pickle
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

ZIP, BARE_ARRAY = b"PK", b"\x93NUMPY"  # what a zip archive and a bare npy begin with
PACKAGE_ASSETS = Path(__file__).parent / "assets"
SHOWN_NAME = 40  # letters of a name in that of its draft, which must not become too long for a disk
CLONE_ASSETS = Path(__file__).parent.parent / "checkpoints"


def find_asset(name: str) -> Path:
    """Return the path of a file that ships with the package, e.g. `openhand/OPENHAND_RIGHT.npz`.

    An installed wheel carries the content of `checkpoints/` as `haptic/assets/`; a clone has it beside the package.

    Raises:
        FileNotFoundError: neither place has it; the installation is incomplete.
    """
    for folder in (PACKAGE_ASSETS, CLONE_ASSETS):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"the shipped file {name} is neither in {PACKAGE_ASSETS} nor in {CLONE_ASSETS}; reinstall haptic"
    )


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; rename it onto `path` if all went well, else remove it.

    The temporary name keeps the suffix, since writers of video and pictures choose their format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem[:SHOWN_NAME]}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when it is complete and on disk."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_plain_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz; nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no npz of plain arrays; the message is the reason only, the caller says what was expected.
    """
    try:
        with path.open("rb") as start:
            magic = start.read(len(BARE_ARRAY))
        if magic == BARE_ARRAY:
            raise ValueError("one bare array")
        if not magic.startswith(ZIP):  # numpy would take it for a pickle, and advise to trust it
            raise ValueError("it is no zip archive")
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged archive or header can raise anything
        raise ValueError(str(error)) from None


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a damaged file makes its readers raise inside the block into one line.

    Raises:
        ValueError: as it was raised where it names the file already; else file, reason, and what was `expected`.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{path}: damaged, or of another kind ({type(error).__name__}: {reason}); expected {expected}"
        ) from None


class UnsafePickleError(ValueError):
    """A pickle asks for a class or function that is not plain data."""


class Placeholder:
    """Stands where a pickle names a class that is not wanted; holds nothing and runs nothing."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        """Swallow list items."""

    def extend(self, _values: Any) -> None:
        """Swallow list items."""


class _SparseColumns:
    """Takes the state of a scipy.sparse.csc_matrix; `dense` rebuilds the array without scipy's class."""

    def __init__(self, *_args: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}

    def dense(self) -> np.ndarray:
        shape = self.state.get("_shape", self.state.get("shape"))
        data, indices, indptr = (np.asarray(self.state[key]) for key in ("data", "indices", "indptr"))
        if shape is None:
            raise ValueError("a sparse matrix without its shape")
        array = np.zeros(tuple(shape), dtype=data.dtype)
        columns = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        np.add.at(array, (indices, columns), data)
        return array


class _ChumpyArray:
    """Takes the state of a chumpy.ch.Ch: its value is `x`."""

    def __init__(self, *_args: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}

    def dense(self) -> np.ndarray:
        return np.asarray(plain_arrays(self.state["x"]))


class _ChumpySelect(_ChumpyArray):
    """Takes the state of a chumpy.reordering.Select: `a.ravel()[idxs].reshape(preferred_shape)`."""

    def dense(self) -> np.ndarray:
        source = np.asarray(plain_arrays(self.state["a"])).ravel()
        picked = source[np.asarray(plain_arrays(self.state["idxs"])).ravel()]
        shape = self.state.get("preferred_shape")
        return picked if shape is None else picked.reshape(shape)


def plain_arrays(value: Any) -> Any:
    """Replace the stand-ins for foreign array classes by plain arrays, through dicts, lists and tuples."""
    if isinstance(value, _SparseColumns | _ChumpyArray):
        return value.dense()
    if isinstance(value, dict):
        return {key: plain_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain_arrays(item) for item in value)
    return value


def _numpy_reconstruct(subtype: Any, shape: Any, dtype: Any) -> np.ndarray:
    """Rebuild an empty array as numpy's own `_reconstruct` does, for plain arrays only."""
    if subtype is not np.ndarray:
        raise UnsafePickleError(f"an array of class {subtype!r}")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


def _numpy_scalar(dtype: Any, data: Any = None) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise UnsafePickleError(f"a scalar of dtype {dtype!r}")
    raw = data.encode("latin-1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype=dtype, count=1)[0]


def _numpy_frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    """Take the place of `_codecs.encode`, which protocol 2 uses for bytes; latin-1 only."""
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin-1")


def _copy_reconstructor(kind: type, base: type, state: Any) -> Any:
    """Take the place of `copyreg._reconstructor` for the stand-in classes above."""
    if isinstance(kind, type) and issubclass(kind, _SparseColumns | _ChumpyArray | Placeholder):
        return kind()
    raise UnsafePickleError(f"an object of class {kind!r}")


def _plain_dict(*_factory: Any) -> dict[Any, Any]:
    """Take the place of `defaultdict`: what it would make of missing keys is not wanted."""
    return {}


ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _plain_dict,
    ("__builtin__", "dict"): dict,
    ("builtins", "dict"): dict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("copy_reg", "_reconstructor"): _copy_reconstructor,
    ("copyreg", "_reconstructor"): _copy_reconstructor,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "complex"): complex,
    ("scipy.sparse.csc", "csc_matrix"): _SparseColumns,
    ("scipy.sparse._csc", "csc_matrix"): _SparseColumns,
    ("chumpy.ch", "Ch"): _ChumpyArray,
    ("chumpy.reordering", "Select"): _ChumpySelect,
}
for _module in ("numpy.core", "numpy._core"):
    ADMITTED[f"{_module}.multiarray", "_reconstruct"] = _numpy_reconstruct
    ADMITTED[f"{_module}.multiarray", "scalar"] = _numpy_scalar
    ADMITTED[f"{_module}.numeric", "_frombuffer"] = _numpy_frombuffer


class RestrictedUnpickler(pickle.Unpickler):
    """Admits numpy arrays, scalars and plain containers, and stand-ins for three classes of MANO's files.

    With `placeholders=True` other classes become inert `Placeholder`s instead of an error: for official checkpoints,
    whose configuration objects are not wanted.
    """

    def __init__(self, file: io.BufferedIOBase, *, name: str, placeholders: bool = False) -> None:
        super().__init__(file, encoding="latin-1")
        self._name = name
        self._placeholders = placeholders

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for `module.name`, or refuse it by name."""
        if self._placeholders and (module, name) not in ADMITTED:
            return Placeholder
        return _admitted(module, name, where=self._name)


def _admitted(module: str, name: str, *, where: str) -> Callable[..., Any]:
    if (module, name) in ADMITTED:
        return ADMITTED[module, name]
    raise UnsafePickleError(
        f"{where}: the pickle names {module}.{name}, which is not plain data; it was not opened. "
        "Expected numpy arrays, numbers, strings, lists and dicts (and MANO's scipy and chumpy arrays)"
    )


def load_plain_pickle(path: Path) -> Any:
    """Read a foreign pickle of plain data (MANO, HaMeR's shards); nothing in it is executed.

    Raises:
        UnsafePickleError: it holds anything but plain data; the class is named.
        ValueError: it is no pickle, or a damaged one.
    """
    with path.open("rb") as file:
        return load_plain_pickle_bytes(file.read(), name=str(path))


def load_plain_pickle_bytes(data: bytes, *, name: str) -> Any:
    """Read a pickle of plain data from memory; `name` is used in messages."""
    try:
        return plain_arrays(RestrictedUnpickler(io.BytesIO(data), name=name).load())
    except UnsafePickleError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{name}: not a readable pickle ({type(error).__name__}: {error})") from None


class _JoblibArray:
    """Takes the state of joblib's NumpyArrayWrapper, which stands where an array's bytes follow in the file itself."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}

    def read(self, file: io.BytesIO) -> np.ndarray:
        """Return the array, and leave the file where the pickle goes on."""
        dtype, shape, order = (self.state.get(key) for key in ("dtype", "shape", "order"))
        if self.state.get("subclass") is not np.ndarray or not isinstance(dtype, np.dtype) or dtype.hasobject:
            raise UnsafePickleError(f"an array of class {self.state.get('subclass')!r} and type {dtype!r}")
        shape = tuple(int(side) for side in shape or ())
        if self.state.get("numpy_array_alignment_bytes") is not None:
            file.seek(int.from_bytes(file.read(1), "little"), io.SEEK_CUR)
        count = int(np.prod(shape, dtype=np.int64))
        data = file.read(count * dtype.itemsize)
        if len(data) != count * dtype.itemsize:
            raise EOFError("the file ends within an array")
        flat = np.frombuffer(data, dtype).copy()
        return flat.reshape(shape[::-1]).T if order == "F" else flat.reshape(shape)


_PythonUnpickler: Any = pickle._Unpickler  # the one in Python: what it does at an operation can be changed


class _JoblibUnpickler(_PythonUnpickler):
    """Reads what `joblib.dump` writes without compression, with the same classes admitted as elsewhere."""

    def __init__(self, file: io.BytesIO, *, name: str) -> None:
        super().__init__(file, encoding="latin-1")
        self._source, self._name = file, name

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for `module.name`, or refuse it by name."""
        if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
            return _JoblibArray
        return _admitted(module, name, where=self._name)

    def load_build(self) -> None:
        """Put the array in the place of what announces it."""
        super().load_build()
        if isinstance(self.stack[-1], _JoblibArray):
            self.stack[-1] = self.stack[-1].read(self._source)

    dispatch: ClassVar = {**_PythonUnpickler.dispatch, pickle.BUILD[0]: load_build}


def load_joblib(path: Path) -> Any:
    """Read a file of `joblib.dump` (WHAM's output), or a pickle, of plain data; nothing in it is executed.

    Raises:
        UnsafePickleError: it holds anything but plain data; the class is named.
        ValueError: it is no such file, a compressed one, or a damaged one.
    """
    data = path.read_bytes()
    if data[:1] != b"\x80":
        raise ValueError(f"{path}: not a pickle, or a compressed one; write it with joblib.dump(..., compress=0)")
    try:
        return plain_arrays(_JoblibUnpickler(io.BytesIO(data), name=str(path)).load())
    except UnsafePickleError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{path}: not a readable pickle ({type(error).__name__}: {error})") from None


def is_zip(path: Path) -> bool:
    """Say whether the file is a zip archive (as torch checkpoints of the last years are)."""
    return zipfile.is_zipfile(path)
