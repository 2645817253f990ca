"""Which hand comes when: the order of training data as a plain function of the seed and the place in the run.

Nothing here has a state. The draw at position p is the same whoever asks, so that any number of workers and machines
can share the positions among them, and a run that starts again at p sees what it would have seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from haptic.data.readers import TrackSet

BLOCK = 10_000  # draws in which every set has exactly its share
SHARE_TOLERANCE = 1e-3
# What generators are keyed by, besides seed and position.
VIDEO, IMAGE, REAL = 1, 2, 3
ORDER, SCHEDULE, RETRY = 11, 12, 13


@dataclass(frozen=True)
class Draw:
    """One hand to be shown: a track of a set, and the places of its frames in it."""

    set_index: int
    track: int
    places: tuple[int, ...]


class Stream:
    """An endless sequence of draws from several sets by their shares; each set is gone through in shuffled passes.

    In every pass of a set each stretch of `clip_frames` frames has one draw (each frame, where a draw is one frame).
    Shards are shuffled, and hands within `shards_at_once` of them.

    Args:
        sets: all sets of the run.
        shares: by set name; they sum to one.
        max_strides: by set name; half of the windows (`stride_rate`) are taken every 1 ... max_stride frames.
        kind: keys the generators, so that two streams over the same sets differ.

    Raises:
        ValueError: shares that do not sum to one, an unknown set, a set without a track that is long enough.
    """

    def __init__(
        self,
        sets: Sequence[TrackSet],
        shares: Mapping[str, float],
        *,
        name: str,
        kind: int,
        seed: int,
        clip_frames: int,
        max_strides: Mapping[str, int] | None = None,
        stride_rate: float = 0.0,
        shards_at_once: int = 100,
    ) -> None:
        check_shares(shares, [one.name for one in sets], name=name)
        numbers = {one.name: number for number, one in enumerate(sets)}
        self._orders = [
            _SetOrder(sets[numbers[chosen]], numbers[chosen], clip_frames, shards_at_once, (seed, kind))
            for chosen in shares
        ]
        self._max_strides = [(max_strides or {}).get(chosen, 1) for chosen in shares]
        self._shares = np.array(list(shares.values()), np.float64)
        self._seed, self._kind = seed, kind
        self._clip_frames, self._stride_rate = clip_frames, stride_rate
        self._block_schedule = lru_cache(maxsize=4)(self._make_schedule)

    def rng(self, position: int, attempt: int) -> np.random.Generator:
        """Return the generator of a position: for the draw first, then for what is done to the pictures."""
        return np.random.default_rng([self._seed, self._kind, position, attempt])

    def draw(self, position: int, attempt: int, *, rng: np.random.Generator) -> Draw:
        """Return the draw at a position; further attempts take its place if the first cannot be read.

        Args:
            rng: `self.rng(position, attempt)`.
        """
        block, place = divmod(position, BLOCK)
        chosen, earlier, per_block = self._block_schedule(block)
        number = int(chosen[place])
        order = self._orders[number]
        if attempt == 0:
            unit = order.unit(block * int(per_block[number]) + int(earlier[place]))
        else:
            unit = int(rng.integers(order.num_units))
        track, stretch = order.track_of(unit)
        num_frames = int(order.num_frames[track])
        if self._clip_frames == 1:
            return Draw(order.set_index, track, (stretch,))
        stride = 1
        if rng.random() < self._stride_rate:
            # The shorter tracks allow only the shorter strides.
            longest = min(self._max_strides[number], (num_frames - 1) // (self._clip_frames - 1))
            stride = int(rng.integers(1, longest + 1))
        start = int(rng.integers(num_frames - (self._clip_frames - 1) * stride))
        return Draw(order.set_index, track, tuple(range(start, start + self._clip_frames * stride, stride)))

    def _make_schedule(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return, for the draws of a block, the set of each and how many before it are of the same set."""
        exact = self._shares / self._shares.sum() * BLOCK
        counts = np.floor(exact).astype(np.int64)
        for number in np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]:
            counts[number] += 1
        chosen = np.repeat(np.arange(len(counts)), counts)
        chosen = np.random.default_rng([self._seed, self._kind, SCHEDULE, block]).permutation(chosen)
        earlier = np.zeros(BLOCK, np.int64)
        for number in range(len(counts)):
            own = chosen == number
            earlier[own] = np.arange(own.sum())
        return chosen, earlier, counts

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_block_schedule"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._block_schedule = lru_cache(maxsize=4)(self._make_schedule)


class _SetOrder:
    """The passes through one set."""

    def __init__(
        self, source: TrackSet, set_index: int, clip_frames: int, shards_at_once: int, key: tuple[int, ...]
    ) -> None:
        self.set_index = set_index
        self.num_frames = source.num_frames
        usable = np.flatnonzero(source.num_frames >= clip_frames)
        if not len(usable):
            raise ValueError(
                f"set {source.name}: none of its {len(source.num_frames)} tracks has {clip_frames} frames; use it for "
                "images, or shorten clip_frames"
            )
        self._tracks = usable
        self._first_unit = np.concatenate([[0], np.cumsum(source.num_frames[usable] // clip_frames)])
        self._shard_of_unit = np.repeat(source.shard_of[usable], source.num_frames[usable] // clip_frames)
        self._shards_at_once = shards_at_once
        self._key = key
        self._pass: tuple[int, np.ndarray] | None = None

    @property
    def num_units(self) -> int:
        """How many draws a pass has."""
        return int(self._first_unit[-1])

    def unit(self, number: int) -> int:
        """Return the `number`-th unit drawn from this set since the start of the run."""
        which_pass, place = divmod(number, self.num_units)
        if self._pass is None or self._pass[0] != which_pass:
            self._pass = (which_pass, self._shuffled(which_pass))
        return int(self._pass[1][place])

    def track_of(self, unit: int) -> tuple[int, int]:
        """Return the track of a unit, and which stretch of the track it is."""
        row = int(np.searchsorted(self._first_unit, unit, side="right")) - 1
        return int(self._tracks[row]), unit - int(self._first_unit[row])

    def _shuffled(self, which_pass: int) -> Int[np.ndarray, " U"]:
        rng = np.random.default_rng([*self._key, ORDER, self.set_index, which_pass])
        shards = rng.permutation(np.unique(self._shard_of_unit))
        group_of_shard = np.zeros(shards.max() + 1, np.int64)
        group_of_shard[shards] = np.arange(len(shards)) // self._shards_at_once
        group = group_of_shard[self._shard_of_unit]
        return np.lexsort((rng.random(self.num_units), group))


def check_shares(shares: Mapping[str, float], known: Sequence[str], *, name: str) -> None:
    """Refuse shares that are none, or of sets that are not there.

    Raises:
        ValueError: what is wrong, and which sets there are.
    """
    for chosen, share in shares.items():
        if chosen not in known:
            raise ValueError(f"{name}: unknown set {chosen!r}; the config's sets are {', '.join(known) or 'none'}")
        if not (np.isfinite(share) and share > 0):
            raise ValueError(f"{name}: the share of {chosen} is {share}; expected above 0, or leave the set out")
        if round(share * BLOCK) < 1:
            raise ValueError(f"{name}: the share of {chosen} is {share}; the smallest is {1 / BLOCK}")
    total = sum(shares.values())
    if abs(total - 1) > SHARE_TOLERANCE:
        told = ", ".join(f"{chosen} {share:g}" for chosen, share in shares.items())
        raise ValueError(f"{name}: the shares sum to {total:g}; expected 1 ({told})")
