"""Tables: ours beside what others printed, as Markdown and LaTeX, and the same as CSV per sequence and per frame."""

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from haptic.evaluation.benchmarks import Benchmark
from haptic.evaluation.protocols import Protocol
from haptic.evaluation.scoring import BOTH_HANDS, Cell, FrameScores, SequenceScore, summarise
from haptic.files import atomic_path, atomic_write

FramesFormat = Literal["auto", "parquet", "csv"]


@dataclass(frozen=True)
class TableRow:
    """One method on one set."""

    method: str
    cells: dict[str, Cell]
    num_sequences: int
    num_hands: int


@dataclass(frozen=True)
class SetTable:
    """All methods on one set under one protocol; `published` are rows of others, mean values only."""

    set_name: str
    protocol: Protocol
    rows: tuple[TableRow, ...]
    published: tuple[tuple[str, dict[str, float]], ...]
    digest: str


def build_tables(
    benchmark: Benchmark,
    scores: Sequence[SequenceScore],
    methods: Sequence[str],
    digests: dict[str, str],
    *,
    seed: int,
) -> list[SetTable]:
    """Return one table per set and sub-split, in the benchmark's order."""
    published = load_published(benchmark.published)
    tables = []
    for protocol in benchmark.protocols:
        names = [f"{protocol.data_set}, {split.name}" for split in protocol.splits] or [protocol.data_set]
        for name in names:
            ours = [score for score in scores if score.set_name == name]
            if not ours:
                continue
            rows = []
            for method in methods:
                own = [score for score in ours if score.method == method]
                cells = {metric.title: summarise(own, metric.title, protocol, seed=seed) for metric in protocol.metrics}
                num_hands = sum(score.hand != BOTH_HANDS for score in own)
                rows.append(TableRow(method, cells, len({score.sequence for score in own}), num_hands))
            tables.append(
                SetTable(name, protocol, tuple(rows), published_rows(published, name), digests[protocol.data_set])
            )
    return tables


def load_published(name: str) -> dict[str, Any]:
    """Return a table of others' numbers, or an empty one."""
    text = resources.files("haptic.evaluation").joinpath("published.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)["tables"]
    return tables.get(name, {})


def published_rows(published: dict[str, Any], set_name: str) -> tuple[tuple[str, dict[str, float]], ...]:
    """Return others' rows for a set. Papers that do not say which split of DexYCB they mean stand under both."""
    names = [set_name] + (["dexycb"] if set_name.startswith("dexycb-s0") else [])
    return tuple(
        (row["method"], row["values"][name])
        for row in published.get("rows", [])
        for name in names
        if name in row["values"]
    )


def markdown(benchmark: Benchmark, tables: Sequence[SetTable], *, command: str, notes: Sequence[str]) -> str:
    """Return the whole page: tables, protocols, and whatever has to be said about the numbers."""
    published = load_published(benchmark.published)
    lines = [f"# {benchmark.title}", "", f"`{command}`", ""]
    for table in tables:
        heads = [metric.head for metric in table.protocol.metrics]
        first = table.rows[0] if table.rows else None
        size = f"{first.num_sequences} sequences, {first.num_hands} hands' tracks" if first else "empty"
        lines += [f"## {table.set_name}", "", f"Protocol `{table.protocol.hash}`, data `{table.digest}`: {size}.", ""]
        lines += ["| method | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for row in table.rows:
            lines.append(
                f"| {row.method} | " + " | ".join(_cell(row.cells[m.title]) for m in table.protocol.metrics) + " |"
            )
        for method, values in table.published:
            cells = [f"{values[m.title]:.2f}" if m.title in values else "-" for m in table.protocol.metrics]
            lines.append(f"| *{method}, as printed* | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["Mean [95 % interval: bootstrap over sequences]. A dash: nothing to score.", ""]
    if published and any(table.published for table in tables):
        caveat = f" ({published['caveat']})" if published["caveat"] else ""
        secondary = "" if published["mark"] == "P" else " **Secondary source.**"
        lines += [f"As printed: {published['source']}{caveat}.{secondary}", ""]
    lines += ["## Protocols", ""]
    lines += [f"- {protocol.describe()}" for protocol in dict.fromkeys(table.protocol for table in tables)]
    if benchmark.lacking:
        lines.append(f"- Not scored here: {benchmark.lacking}.")
    if notes:
        lines += ["", "## Notes", "", *[f"- {note}" for note in notes]]
    return "\n".join(lines) + "\n"


def latex(tables: Sequence[SetTable]) -> str:
    """Return one tabular per set, means only; protocol and data digests as comments."""
    parts = []
    for table in tables:
        metrics = table.protocol.metrics
        lines = [
            f"% {table.set_name}, protocol {table.protocol.hash}, data {table.digest}",
            r"\begin{tabular}{l" + "r" * len(metrics) + "}",
            r"\hline",
            " & ".join(["method", *[_tex(metric.head) for metric in metrics]]) + r" \\",
            r"\hline",
        ]
        for row in table.rows:
            lines.append(" & ".join([_tex(row.method), *[_number(row.cells[m.title].mean) for m in metrics]]) + r" \\")
        for method, values in table.published:
            cells = [_number(values.get(m.title, math.nan)) for m in metrics]
            lines.append(" & ".join([rf"\textit{{{_tex(method)}}}", *cells]) + r" \\")
        parts.append("\n".join([*lines, r"\hline", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def console(tables: Sequence[SetTable]) -> str:
    """Return the tables as aligned text."""
    lines = []
    for table in tables:
        heads = ["", *[metric.head for metric in table.protocol.metrics]]
        rows = [
            [row.method, *[_cell(row.cells[m.title], short=True) for m in table.protocol.metrics]] for row in table.rows
        ]
        rows += [
            [f"{method} (printed)", *[_number(values.get(m.title, math.nan)) for m in table.protocol.metrics]]
            for method, values in table.published
        ]
        widths = [max(len(line[column]) for line in [heads, *rows]) for column in range(len(heads))]
        lines += ["", f"{table.set_name}   protocol {table.protocol.hash}   data {table.digest}"]
        for line in [heads, *rows]:
            lines.append(
                "  ".join(
                    text.rjust(width) if n else text.ljust(width)
                    for n, (text, width) in enumerate(zip(line, widths, strict=True))
                )
            )
    return "\n".join(lines)


def write_sequences(path: Path, scores: Sequence[SequenceScore]) -> None:
    """Write one line per hand's track (or chunk of it), method and protocol."""
    titles = list(dict.fromkeys(title for score in scores for title in score.values))
    head = ["set", "method", "sequence", "hand", "first_frame", "num_frames", "num_predicted", "focal_widths", *titles]
    rows = [
        [
            score.set_name, score.method, score.sequence, score.hand, score.first_frame, score.num_frames,
            score.num_predicted, _plain(score.focal_widths),
            *[_plain(score.values.get(title, math.nan)) for title in titles],
        ]
        for score in scores
    ]  # fmt: skip
    write_csv(path, head, rows)


def write_frames(folder: Path, scores: Sequence[FrameScores], *, kind: FramesFormat) -> Path:
    """Write one line per frame: `frames.parquet`, or `frames.csv.gz` where pyarrow is not installed.

    Raises:
        ValueError: parquet is asked for by name and pyarrow is not installed.
    """
    columns = _frame_columns(scores)
    if kind != "csv":
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError:
            if kind == "parquet":
                raise ValueError(
                    "--frames parquet: needs the package pyarrow; pip install 'haptic[eval]', or say --frames csv"
                ) from None
        else:
            path = folder / "frames.parquet"
            with atomic_path(path) as temporary:
                pyarrow.parquet.write_table(pyarrow.table(columns), temporary, compression="zstd")
            return path
    path = folder / "frames.csv.gz"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    values = [[_plain(value) for value in column] for column in columns.values()]
    writer.writerows(zip(*values, strict=True))
    with atomic_write(path) as file, gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
        packed.write(text.getvalue().encode())
    return path


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV that appears when it is complete."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _frame_columns(scores: Sequence[FrameScores]) -> dict[str, Any]:
    lengths = [len(score.columns["frame"]) for score in scores]
    columns: dict[str, Any] = {
        key: np.repeat(np.array([getattr(score, key) for score in scores]), lengths).tolist()
        for key in ("set_name", "method", "sequence", "hand", "focal_widths")
    }
    for key in scores[0].columns if scores else ():
        columns[key] = np.concatenate([score.columns[key] for score in scores])
    return columns


def _cell(cell: Cell, *, short: bool = False) -> str:
    if math.isnan(cell.mean):
        return "-"
    if short or math.isnan(cell.low):
        return _number(cell.mean)
    return f"{_number(cell.mean)} [{_number(cell.low)}, {_number(cell.high)}]"


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value.item() if isinstance(value, np.generic) else value


def _tex(text: str) -> str:
    for sign in "&%_#":
        text = text.replace(sign, "\\" + sign)
    return text
