"""Turn a data set, as it was downloaded, into shards.

    python -m data_prep --list
    python -m data_prep dexycb --root DOWNLOAD --out SHARDS --split s0_train s0_val s0_test --mano MANO_RIGHT.pkl
    python -m data_prep dexycb --root DOWNLOAD --split s0_test --check
    python -m data_prep dexycb --root DOWNLOAD --split s0_test --preview sheet.png

What to download, the licences, expected counts and traps of every set: docs/datasets.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.convert import ConvertConfig, Interrupted, convert, open_source
from data_prep.dataset import DataSet, Request
from data_prep.mano_files import ManoFiles
from data_prep.preview import write_preview
from data_prep.registry import all_data_sets, check_root, find_data_set
from data_prep.sanity import check_source
from haptic.hand.model import is_openhand

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list or not options.data_set:
        for data_set in all_data_sets().values():
            print(f"{data_set.name:20s} {data_set.title}; splits {', '.join(data_set.splits)}")
        return 0
    try:
        return _run(find_data_set(options.data_set), options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = error.filename or options.out or options.root
        print(f"error: {where}: {error.strerror or error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"\n{error}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("\ninterrupted; nothing new was written", file=sys.stderr)
        return INTERRUPTED


def _run(data_set: DataSet, options: argparse.Namespace) -> int:
    if options.root is None:
        raise ValueError(f"say where {data_set.title} was downloaded to: --root FOLDER")
    check_root(data_set, options.root)
    mano = _mano(data_set, options)
    own = dict(_own_option(text, data_set) for text in options.option)
    config = ConvertConfig(
        workers=options.workers, limit=options.limit, max_damaged=options.max_damaged, is_partial_fine=options.partial,
        hands_per_shard=options.hands_per_shard, max_crop_px=options.crop_px, max_frame_px=options.frame_px,
    )  # fmt: skip
    code = 0
    splits = options.split or list(data_set.splits)
    for split in splits:
        request = Request(options.root, split, mano, own)
        if not (options.check or options.preview):
            if options.out is None:
                raise ValueError("say where the shards go: --out FOLDER (or --check, or --preview PICTURE.png)")
            convert(data_set, request, options.out, config)
            continue
        source = open_source(data_set, request, is_partial_fine=options.partial or options.check, limit=options.limit)
        if options.check:
            lines, faults = check_source(data_set, source, split)
            print("\n".join([*lines, *(f"FAULT: {fault}" for fault in faults)]))
            code = code or int(bool(faults))
        if options.preview:
            picture = options.preview
            if len(splits) > 1:
                picture = picture.with_stem(f"{picture.stem}-{split}")
            write_preview(data_set, source, picture)
            print(f"{picture} shows hands of {data_set.title}, {split}")
    return code


def _mano(data_set: DataSet, options: argparse.Namespace) -> ManoFiles | None:
    if options.mano is None:
        if options.mano_left is not None:
            raise ValueError("--mano-left was given without --mano MANO_RIGHT.pkl; both are needed")
        if data_set.mano == "for parameters":
            print(
                f"{data_set.title} without --mano MANO_RIGHT.pkl: the shards will have its joints, but no MANO "
                "parameters",
                file=sys.stderr,
            )
        return None
    mano = ManoFiles(options.mano, options.mano_left)
    if is_openhand(mano.name):
        raise ValueError(
            f"--mano {options.mano}: this is the openhand, whose shapes and vertices are not MANO's; the numbers of "
            f"{data_set.title} need your own MANO_RIGHT.pkl"
        )
    return mano


def _own_option(text: str, data_set: DataSet) -> tuple[str, str]:
    name, is_set, value = text.partition("=")
    if not is_set or name not in data_set.options:
        known = "; ".join(f"{key}: {meaning}" for key, meaning in data_set.options.items())
        raise ValueError(f"--option {text}: expected NAME=VALUE; {data_set.title} has {known or 'no options'}")
    return name, value


def _parser() -> argparse.ArgumentParser:
    defaults = ConvertConfig()
    parser = argparse.ArgumentParser(
        prog="python -m data_prep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_set", nargs="?", help="see --list")
    parser.add_argument("--list", action="store_true", help="name the data sets and their splits")
    parser.add_argument("--root", type=Path, help="the folder of the download")
    parser.add_argument("--out", type=Path, help="folder for the shards")
    parser.add_argument("--split", nargs="+", help="by official name; all if not given")
    parser.add_argument("--workers", type=int, default=defaults.workers, help="processes")
    parser.add_argument("--limit", type=int, help="convert only the first N units (sequences) of a split")
    parser.add_argument("--check", action="store_true", help="counts and numbers of the annotations; writes nothing")
    parser.add_argument("--preview", type=Path, metavar="PICTURE.png", help="write a sheet with labels drawn instead")
    parser.add_argument("--partial", action="store_true", help="go on if parts of the download are missing")
    parser.add_argument("--max-damaged", type=int, default=defaults.max_damaged,
                        help="pictures and annotations that may be unreadable")  # fmt: skip
    parser.add_argument("--mano", type=Path, metavar="MANO_RIGHT.pkl", help="your licensed file")
    parser.add_argument("--mano-left", type=Path, metavar="MANO_LEFT.pkl", help="for sets with left hands in PCA")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of one data set")
    parser.add_argument("--hands-per-shard", type=int, default=defaults.hands_per_shard)
    parser.add_argument("--crop-px", type=int, default=defaults.max_crop_px, help="longest side of stored crops")
    parser.add_argument("--frame-px", type=int, default=defaults.max_frame_px, help="longest side of stored frames")
    return parser


if __name__ == "__main__":
    sys.exit(main())
