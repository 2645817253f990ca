"""Progress bars with rate and time left, one per stage; nothing at all when quiet."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

ItemT = TypeVar("ItemT")


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
            count = 0
            for item in items:
                yield item
                count += 1
            print(f"  {stage}: {count}", file=sys.stderr, flush=True)  # noqa: T201
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
            for item in items:
                yield item
                bars.advance(task)
            bars.update(task, total=bars.tasks[task].completed)

    def note(self, text: str) -> None:
        """Show one line of news."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class NoProgress:
    """Shows nothing."""

    def track(self, stage: str, items: Iterable[ItemT], total: int | None = None) -> Iterator[ItemT]:
        """Yield the items."""
        yield from items

    def note(self, text: str) -> None:
        """Say nothing."""
