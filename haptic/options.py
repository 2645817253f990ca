"""What is wrong with an option, in one line: where it was given, what came, what was expected.

A `--config` file's faults are told by file and key, the command line's by flag.
"""

import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

KINDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "NoneType": "null",
    "tuple": "a list", "list": "a list", "dict": "fields",
}  # fmt: skip
NO_KIND_FITS = "Does not validate against any of the Union"
THEIRS = ("Expected a", "Subtypes:", "Given value", "Got value", "Not of type", "Problem")
LONGEST_VALUE = 60  # characters of a value that are shown


class TeachingParser(ArgumentParser):
    """Says what is wrong in one line, as a ValueError, and proposes the nearest known flag."""

    def error(self, message: str, ex: Exception | None = None) -> Any:  # type: ignore[override]
        """Refuse the command line.

        Raises:
            ValueError: always.
        """
        raise ValueError(in_one_line(message, self))


def in_one_line(message: str, parser: ArgumentParser) -> str:
    """Return the parser's report in a user's words."""
    lines = [line.strip(" -") for line in message.strip().splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if text.startswith("unrecognized arguments:"):
        return _unknown_option(text.split(":", 1)[1].split()[0], parser)
    if match := re.search(r"ption '(?P<key>[^']+)'", text):
        return f"{text.rstrip('.')}; {_nearest(match['key'], parser)}"
    key = re.match(r'Parser key "(?P<name>[^"]+)":\s*(?P<rest>.*)', text)
    if key is None and not text.startswith(NO_KIND_FITS):
        return " ".join(message.split())
    errors = lines[lines.index("Errors:") + 1 :] if "Errors:" in lines else []
    own = [line for line in errors if not line.startswith((*THEIRS, NO_KIND_FITS))]
    if own:  # what one of the kinds that it may be said for itself
        return f"{key['name']}: {own[0]}" if key else own[0]
    if key is None:
        return text
    if not key["rest"] and lines[1:] and not lines[1].startswith((*THEIRS, NO_KIND_FITS)):
        return f"{key['name']}: {lines[1]}"  # its own parser has spoken already
    name = key["name"] if "." in key["name"] else key["name"].replace("_", "-")
    given = next((line for line in lines if "Got value:" in line or "Given value:" in line), "")
    value = given.rpartition("value:")[2].strip()
    wanted = _wanted(message)
    rest = key["rest"] or " ".join(lines[1:2]) or "cannot be used"
    return f"--{name} is {value!r}; {wanted}" if value and wanted else f"--{name} {rest}"


def config_files_of(words: Sequence[str]) -> list[Path]:
    """Return the files that `--config` names on a command line, in their order."""
    given = re.findall(r"(?:^|\n)--config[=\n]([^\n]+)", "\n".join(words))
    return [Path(file) for file in given]


def check_config_files(parser: ArgumentParser, files: Sequence[Path]) -> None:
    """Check that every file holds known keys, with fields where a section is; values are the parser's to check.

    Raises:
        ValueError: one does not.
    """
    kinds = _kinds(parser)
    for file in files:
        if file.is_file():  # the parser says it of one that is not
            for key, value in _content(file).items():
                _check_key(file, str(key), value, kinds)


@contextmanager
def option_faults_named(parser: ArgumentParser, files: Sequence[Path], words: Sequence[str]) -> Iterator[None]:
    """Say in one line what is refused inside the block; where a file's value is at fault, with file and key before it.

    `words` are the command line's: what stands there is no file's fault.

    Raises:
        ValueError: that line.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        text = str(error)
        named = any(str(file) in text for file in files)
        fault = None if named else _fault_in(parser, files, words, text)
        raise ValueError(in_one_line(text, parser) if fault is None else fault) from None


def _content(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except RecursionError:
        raise ValueError(f"{file}: nested too deeply; expected lines such as `key: value`") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or "it is no text"
        raise ValueError(f"{file}: {place}not YAML ({reason}); expected lines such as `key: value`") from None
    if not isinstance(content, Mapping):
        came = "nothing" if content is None else f"{_short(content)}"
        raise ValueError(f"{file}: holds {came}; expected keys and values, lines such as `key: value`")
    return content


def _kinds(parser: ArgumentParser) -> dict[str, Any]:
    """Return every key that takes a value, with dots, and its type if that is known."""
    taken = {"help", "print_config", "version", "config"}
    dests = {
        action.dest: getattr(action, "_typehint", None)
        for action in parser._actions
        if action.dest.rpartition(".")[2] not in taken
    }
    return {dest: kind for dest, kind in dests.items() if not any(other.startswith(f"{dest}.") for other in dests)}


def _check_key(file: Path, key: str, value: Any, kinds: Mapping[str, Any]) -> None:
    if key in kinds:
        _check_fields(file, key, value, kinds[key])
        return
    inside = sorted({kind[len(key) + 1 :].split(".")[0] for kind in kinds if kind.startswith(f"{key}.")})
    if not inside:
        raise ValueError(_unknown(file, key, list(kinds)))
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_key(file, f"{key}.{name}", item, kinds)
    elif value is not None and not isinstance(value, str):  # a text is another file's name
        raise ValueError(f"{file}: {key} is {_short(value)}; expected its fields: {', '.join(inside)}")


def _check_fields(file: Path, key: str, value: Any, kind: Any) -> None:
    """Check the fields of a value that is a dataclass's, and of those in it."""
    if typing.get_origin(kind) is dict:
        for name, item in value.items() if isinstance(value, Mapping) else ():
            _check_fields(file, f"{key}.{name}", item, typing.get_args(kind)[1])
        return
    if typing.get_origin(kind) in (tuple, list):
        for number, item in enumerate(value if isinstance(value, list) else []):
            _check_fields(file, f"{key}[{number}]", item, typing.get_args(kind)[0])
        return
    options = typing.get_args(kind) if not is_dataclass(kind) else (kind,)
    classes = [option for option in options if is_dataclass(option)]
    if len(classes) != 1 or (value is None and type(None) in options) or isinstance(value, str):
        return
    own = {field.name: field.type for field in fields(classes[0])}
    if not isinstance(value, Mapping):
        raise ValueError(f"{file}: {key} is {_short(value)}; expected its fields: {', '.join(own)}")
    for name, item in value.items():
        if name not in own:
            raise ValueError(_unknown(file, f"{key}.{name}", [f"{key}.{field}" for field in own]))
        _check_fields(file, f"{key}.{name}", item, own[name])


def _unknown(file: Path, key: str, known: Sequence[str]) -> str:
    """Say that there is no such key; the nearest is one that is called alike, rather than one that lies near."""
    name = key.rpartition(".")[2]
    ways = {way for other in known for way in accumulate(other.split("."), "{}.{}".format)}  # sections too
    by_name = {way.rpartition(".")[2]: way for way in ways}
    near = difflib.get_close_matches(key, ways, n=1, cutoff=0.8) or [
        by_name[found] for found in difflib.get_close_matches(name, by_name, n=1, cutoff=0.75)
    ]
    section = key.rpartition(".")[0]
    inside = sorted({other[len(section) + 1 :].split(".")[0] for other in known if other.startswith(f"{section}.")})
    advice = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(inside)}" if inside else "see --help"
    return f"{file}: {key} is no option; {advice}"


def _fault_in(parser: ArgumentParser, files: Sequence[Path], words: Sequence[str], text: str) -> str | None:
    """Return the message with the file and the key whose value alone brings it about, or None."""
    kinds = _kinds(parser)
    if _refusal(parser, {}) == text:
        return None  # said of the defaults too: no file's fault
    leaves = [
        (file, key, value)
        for file in reversed(files)
        if file.is_file()
        for key, value in _leaves("", _content(file), kinds)
        if not _is_given(key, words)
    ]
    for file, key, value in leaves:
        if _refusal(parser, _nested(key, value)) == text:
            if not isinstance(value, Mapping | list):
                return f"{file}: {key} is {_short(value)}; {_expected(text)}"
            return f"{file}: {text}"  # the fault is deeper than the parser's keys
    for file, key, _ in leaves:
        if re.search(rf"(?<![\w-]){re.escape(key.rpartition('.')[2])}\b", text):
            return f"{file}: {text}"
    return None


def _is_given(key: str, words: Sequence[str]) -> bool:
    """Say whether the command line gives the key, its section, or one of its fields."""
    names = [word[2:].split("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    return any(f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}.") for name in names)


def _leaves(key: str, value: Any, kinds: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if key in kinds or not isinstance(value, Mapping):
        yield key, value
        return
    for name, item in value.items():
        yield from _leaves(f"{key}.{name}" if key else str(name), item, kinds)


def _nested(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def _refusal(parser: ArgumentParser, content: dict[str, Any]) -> str | None:
    """Return what is said against a config of this content alone."""
    needed: dict[str, Any] = {"inputs": []} if any(action.dest == "inputs" for action in parser._actions) else {}
    try:
        parser.instantiate(parser.parse_object(needed | content))
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def _expected(text: str) -> str:
    """Return what a message says was expected; the whole of it where it does not say so in our words."""
    if wanted := _wanted(text):
        return wanted
    ours = re.search(r"; ?((?:expected|it must|both must|give|name) .*)", text, re.DOTALL)
    return ours[1] if ours else text


def _wanted(text: str) -> str:
    """Return what jsonargparse says it can be; nothing where it speaks of something else."""
    groups = re.findall(r"not among choices \[(.*?)\]|Literal\[(.*?)\]", text)
    if known := [word for group in groups for word in re.findall("'([^']+)'", group[0] or group[1])]:
        return f"expected one of {', '.join(dict.fromkeys(known))}"
    if "not boolean" in text:
        return "expected true or false"
    if "object is not iterable" in text:
        return "expected a list"
    kinds = [KINDS[kind] for kind in re.findall(r"Expected an? <class '(\w+)'>", text) if kind in KINDS]
    return f"expected {' or '.join(dict.fromkeys(kinds))}" if kinds else ""


def _unknown_option(word: str, parser: ArgumentParser) -> str:
    if re.fullmatch(r"-?[\d.]+", word):
        joined = "--intrinsics" in _flags(parser)
        return f"unexpected {word!r}" + (
            "; numbers are joined by commas: --intrinsics 800,800,320,240" if joined else ""
        )
    return f"unknown option {word}; {_nearest(word.split('=')[0], parser)}"


def _nearest(word: str, parser: ArgumentParser) -> str:
    known = _flags(parser)
    near = difflib.get_close_matches(word, known, n=1) or difflib.get_close_matches(f"--{word}", known, n=1)
    return f"did you mean {near[0]}?" if near else "--help lists them all"


def _flags(parser: ArgumentParser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
