"""Progress bars with rate and time left, one per stage; nothing at all when quiet."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

ItemT = TypeVar("ItemT")
SECONDS_BETWEEN_LINES = 30.0


class RateColumn(ProgressColumn):
    """Frames per second."""

    def render(self, task: Task) -> Text:
        """Return the rate, or nothing while it is unknown."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:6.1f}/s" if speed else "", style="dim")


class BarProgress:
    """Shows a bar per stage on a terminal, and one line per finished stage where there is no terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)

    def track(self, stage: str, items: Iterable[ItemT], total: int | None = None) -> Iterator[ItemT]:
        """Yield the items while showing how far the stage is."""
        if not self.console.is_terminal:
            yield from self._track_in_lines(stage, items, total)
            return
        columns = (
            TextColumn("  {task.description:<18}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as bars:
            task = bars.add_task(stage, total=total)
            try:
                for item in items:
                    yield item
                    bars.advance(task)
            finally:  # also when it is done before all items are used
                bars.update(task, total=bars.tasks[task].completed)

    def _track_in_lines(self, stage: str, items: Iterable[ItemT], total: int | None) -> Iterator[ItemT]:
        """Say every half minute how far the stage is, for logs."""
        started = said = time.monotonic()
        count = 0
        with suppress(GeneratorExit):  # it is done before all items are used
            for item in items:
                yield item
                count += 1
                now = time.monotonic()
                if now - said > SECONDS_BETWEEN_LINES:
                    said = now
                    rate = count / (now - started)
                    left = f", {(total - count) / rate:.0f} s left" if total and total > count else ""
                    self.note(f"  {stage}: {count} of {total or '?'}, {rate:.1f}/s{left}")
        self.note(f"  {stage}: {count}")

    def note(self, text: str) -> None:
        """Show one line of news."""
        with suppress(OSError):  # nobody reads any more; the work goes on
            if self.console.is_terminal:
                self.console.print(text, highlight=False, markup=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)  # noqa: T201


class NoProgress:
    """Shows nothing."""

    def track(self, stage: str, items: Iterable[ItemT], total: int | None = None) -> Iterator[ItemT]:
        """Yield the items."""
        yield from items

    def note(self, text: str) -> None:
        """Say nothing."""
