"""Tar shards read by place: which members lie where is written down once, then any sample can be read at any time.

That is what makes the order of training data a plain function of a seed, whatever the number of workers and machines,
and lets a run go on exactly where it stopped. The list of members is kept beside the shard (`NAME.tar.index.npz`), or
in the cache folder where that cannot be written. Shards that are not files of this machine (`pipe:`, `https:`, ...) are
fetched whole into the cache when they are needed, and the oldest leave it when it is full.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import tarfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped

from haptic.files import atomic_path, atomic_write

logger = logging.getLogger(__name__)

INDEX_FORMAT = "haptic-index-1"
BLOCK = 512  # a tar's
OPEN_SHARDS = 64  # files that one process keeps open
KEPT_SHARDS = 8  # of those fetched, however full the cache is
DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "haptic" / "shards"


class DamagedSampleError(ValueError):
    """A member or a shard that cannot be read; the message names it. Readers may go on without it."""


def expand_shards(patterns: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the shards that braces (`{000000..000130}`) and wildcards stand for, each once and sorted per pattern.

    Raises:
        ValueError: a pattern matches nothing.
    """
    import braceexpand  # comes with webdataset

    shards: list[str] = []
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        for url in braceexpand.braceexpand(pattern):
            if is_remote(url):
                shards.append(url)
            elif any(sign in url for sign in "*?["):
                path = Path(url).expanduser()
                found = sorted(str(match) for match in Path(path.anchor).glob(str(path.relative_to(path.anchor))))
                if not found:
                    raise ValueError(f"no shards match {url!r}; check the folder, or mount the disk it is on")
                shards += found
            else:
                if not Path(url).expanduser().is_file():
                    raise ValueError(f"there is no shard {url!r}; check the path and the range in braces")
                shards.append(str(Path(url).expanduser()))
    if not shards:
        raise ValueError("no shards are named; give at least one path, pattern or pipe: command")
    return tuple(dict.fromkeys(shards))


def is_remote(url: str) -> bool:
    """Say whether a shard must be fetched: `pipe:command`, or a URL with a scheme other than file."""
    return url.startswith("pipe:") or ("://" in url and not url.startswith("file://"))


def shard_name(url: str) -> str:
    """Return a short name for messages: the last part of the path, or of the last argument that ends in .tar."""
    parts = [part for part in url.replace("'", " ").replace('"', " ").split() if ".tar" in part]
    return (parts[-1] if parts else url).rsplit("/", 1)[-1]


@dataclass(frozen=True)
class ShardIndex:
    """Which members a shard has, in its order, and where their bytes lie.

    `fault` is what is wrong with the shard, empty if nothing: its readable members are listed all the same.
    """

    names: Shaped[np.ndarray, " M"]
    offsets: Int[np.ndarray, " M"]
    sizes: Int[np.ndarray, " M"]
    shard_bytes: int
    fault: str

    def keys(self) -> dict[str, dict[str, int]]:
        """Return, for each key in order, the members' rows by what follows the key's dot."""
        samples: dict[str, dict[str, int]] = {}
        for row, name in enumerate(self.names.tolist()):
            folder, _, base = name.rpartition("/")
            stem, dot, extension = base.partition(".")
            if dot:
                samples.setdefault(f"{folder}/{stem}" if folder else stem, {})[extension] = row
        return samples


def scan_shard(path: Path) -> ShardIndex:
    """Read a tar's headers; a truncated or foreign file gives the members before the fault."""
    names, offsets, sizes, fault = [], [], [], ""
    total = path.stat().st_size
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                if member.offset_data + member.size > total:
                    fault = f"truncated in {member.name}"
                    break
                names.append(member.name)
                offsets.append(member.offset_data)
                sizes.append(member.size)
        if not names and not fault:
            fault = "empty: it has no members"
    except (tarfile.TarError, EOFError, OSError) as error:
        fault = f"not a readable tar after {names[-1] if names else 'its start'} ({error})"
    return ShardIndex(
        np.array(names, dtype=np.str_), np.array(offsets, np.int64), np.array(sizes, np.int64), total, fault
    )


class Shard:
    """One open shard: members by name."""

    def __init__(self, path: Path, index: ShardIndex, *, name: str) -> None:
        self.name = name
        self.index = index
        self.samples = index.keys()
        self._file = path.open("rb", buffering=0)
        self._closing = weakref.finalize(self, self._file.close)  # a shard that nobody holds closes its file too

    def close(self) -> None:
        """Close the file."""
        self._closing()

    def has(self, key: str, extension: str) -> bool:
        """Say whether a member is there."""
        return extension in self.samples.get(key, {})

    def where(self, key: str, extension: str) -> str:
        """Return how messages name a member."""
        return f"{self.name}: {key}.{extension}"

    def read(self, key: str, extension: str) -> bytes:
        """Return a member's bytes.

        Raises:
            DamagedSampleError: it is missing, or the shard no longer holds it where it did.
        """
        row = self.samples.get(key, {}).get(extension)
        if row is None:
            raise DamagedSampleError(f"{self.where(key, extension)} is missing from the shard")
        offset, size = int(self.index.offsets[row]), int(self.index.sizes[row])
        data = os.pread(self._file.fileno(), size + BLOCK, offset - BLOCK)
        header, body = data[:BLOCK], data[BLOCK:]
        # The header lies before the data: whoever changed the shard since it was listed is found out here.
        if len(body) != size or not _is_header_of(header, f"{key}.{extension}".encode()):
            raise DamagedSampleError(
                f"{self.where(key, extension)} is not where the shard's list says; the shard was changed or is "
                "damaged, delete its .index.npz to list it anew"
            )
        return body


def _is_header_of(header: bytes, name: bytes) -> bool:
    """Say whether a tar header names this member; long names are in it in part only."""
    stored = header[:100].split(b"\0", 1)[0]
    return bool(stored) and (name == stored or name.endswith(b"/" + stored) or name[:100] == stored)


class ShardStore:
    """Finds, fetches, lists and opens shards; every process has its own, and they share the cache folder."""

    def __init__(self, *, cache_dir: Path | None = None, cache_gb: float = 50.0) -> None:
        self._cache_dir = DEFAULT_CACHE if cache_dir is None else cache_dir
        self._cache_bytes = int(cache_gb * 1e9)
        self._open: OrderedDict[str, Shard] = OrderedDict()
        self._asked_for: OrderedDict[str, None] = OrderedDict()
        self._fetcher: ThreadPoolExecutor | None = None
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        # A worker opens its own files and fetches by itself.
        return {**self.__dict__, "_open": OrderedDict(), "_asked_for": OrderedDict(), "_fetcher": None}

    def prepare(self, url: str) -> None:
        """Begin to fetch a shard that will be needed, without waiting for it; local ones need nothing."""
        if not is_remote(url) or url in self._asked_for:
            return
        self._asked_for[url] = None
        if len(self._asked_for) > OPEN_SHARDS:
            self._asked_for.popitem(last=False)
        if self._fetcher is None or self._owner != os.getpid():  # threads do not follow into forked workers
            self._fetcher, self._owner = ThreadPoolExecutor(max_workers=1), os.getpid()
        self._fetcher.submit(self.local_path, url)  # who reads the shard meets the error, if there is one

    def shard(self, url: str) -> Shard:
        """Return the open shard.

        Raises:
            DamagedSampleError: it is gone or cannot be fetched.
        """
        if url in self._open:
            self._open.move_to_end(url)
            return self._open[url]
        try:
            shard = Shard(self.local_path(url), self.index(url), name=shard_name(url))
        except OSError as error:
            raise DamagedSampleError(f"{shard_name(url)}: the shard cannot be opened ({error})") from None
        self._open[url] = shard
        while len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        return shard

    def index(self, url: str) -> ShardIndex:
        """Return the list of a shard's members, from beside it, from the cache, or made now."""
        table = self._side_file(url, "index", INDEX_FORMAT, self._make_index)
        return ShardIndex(
            names=table["names"],
            offsets=table["offsets"],
            sizes=table["sizes"],
            shard_bytes=int(table["shard_bytes"]),
            fault=str(table["fault"]),
        )

    def side_table(
        self, url: str, kind: str, version: str, make: Callable[[Shard], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Return small arrays about a shard that are worth keeping, made once by `make`."""
        return self._side_file(url, kind, version, lambda address: make(self.shard(address)))

    def local_path(self, url: str) -> Path:
        """Return the shard as a file of this machine, fetched if it must be.

        Raises:
            DamagedSampleError: it cannot be fetched.
        """
        if not is_remote(url):
            return Path(url.removeprefix("file://"))
        path = self._cached(url, ".tar")
        if not path.is_file():
            with _locked(path.with_suffix(".lock")):
                if not path.is_file():
                    _fetch(url, path)
                    self._make_room()
        os.utime(path)  # the cache drops what was not asked for the longest
        return path

    def _side_file(
        self, url: str, kind: str, version: str, make: Callable[[str], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        beside = None if is_remote(url) else Path(f"{url.removeprefix('file://')}.{kind}.npz")
        cached = self._cached(url, f".{kind}.npz")
        size = None if is_remote(url) else Path(url.removeprefix("file://")).stat().st_size
        for place in (beside, cached):
            table = None if place is None else _read_table(place, version, size)
            if table is not None:
                return table
        table = make(url)
        size = self.local_path(url).stat().st_size
        for place in (beside, cached):
            if place is not None and _write_table(place, version, size, table):
                break
        return table

    def _make_index(self, url: str) -> dict[str, np.ndarray]:
        index = scan_shard(self.local_path(url))
        return {
            "names": index.names, "offsets": index.offsets, "sizes": index.sizes,
            "shard_bytes": np.array(index.shard_bytes), "fault": np.array(index.fault),
        }  # fmt: skip

    def _cached(self, url: str, suffix: str) -> Path:
        return self._cache_dir / (hashlib.sha256(url.encode()).hexdigest()[:24] + suffix)

    def _make_room(self) -> None:
        """Drop what was not asked for the longest until the cache has its size; other processes may do so too."""
        ages: list[tuple[float, int, Path]] = []
        for path in self._cache_dir.glob("[!.]*.tar"):
            with suppress(FileNotFoundError):
                ages.append((path.stat().st_mtime, path.stat().st_size, path))
        ages.sort()
        used = sum(size for _time, size, _path in ages)
        for _time, size, path in ages[:-KEPT_SHARDS]:
            if used <= self._cache_bytes:
                break
            used -= size
            path.unlink(missing_ok=True)  # who has it open keeps it


def _read_table(path: Path, version: str, shard_bytes: int | None) -> dict[str, np.ndarray] | None:
    """Return a side file's arrays, or None if it is absent, damaged, or of another shard or version."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            table = dict(archive)
    except Exception:  # absent or damaged: it is made again
        return None
    made_of = int(table.pop("of_bytes", -1))
    if str(table.pop("version", "")) != version or shard_bytes not in (None, made_of):
        return None
    return table


def _write_table(path: Path, version: str, shard_bytes: int, table: dict[str, np.ndarray]) -> bool:
    try:
        with atomic_write(path) as file:
            np.savez(file, version=np.array(version), of_bytes=np.array(shard_bytes), **table)  # type: ignore[arg-type]
    except OSError:
        return False  # a folder that is read-only: the cache may do
    return True


def _fetch(url: str, path: Path) -> None:
    import webdataset

    logger.info("fetching %s", shard_name(url))
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file, webdataset.gopen(url, "rb") as stream:
            shutil.copyfileobj(stream, file, 1 << 20)
    except Exception as error:  # webdataset's openers raise many kinds
        raise DamagedSampleError(f"{shard_name(url)}: the shard cannot be fetched by {url!r} ({error})") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process of this machine at a time do what follows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
