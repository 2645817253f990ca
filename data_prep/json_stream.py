"""Large COCO files, item by item: a gigabyte of annotations need not be in memory at once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from data_prep.dataset import DamagedError

CHUNK_CHARS = 1 << 20
BLANKS = " \t\r\n"
AFTER_VALUE = BLANKS + ",:]}"


def stream_lists(path: Path) -> Iterator[tuple[str, Any]]:
    """Give (name, item) for every item of every list that the file's object holds directly.

    Raises:
        DamagedError: it is no JSON object, or one that is cut off; the place is named.
    """
    with _opened(path) as file:
        yield from _Stream(file, path).lists()


def stream_entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Give (outer name, inner name, value) of an object of objects, value by value.

    Raises:
        DamagedError: it is no such file, or one that is cut off; the place is named.
    """
    with _opened(path) as file:
        yield from _Stream(file, path).entries()


def _opened(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8")
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror or error}") from None


class _Stream:
    """A window on the file's text that grows at the end and is dropped at the start."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._place, self._dropped = "", 0, 0
        self._decoder = json.JSONDecoder()

    def lists(self) -> Iterator[tuple[str, Any]]:
        self._take("{")
        if self._peek() == "}":
            return
        while True:
            name = self._value()
            self._take(":")
            if self._peek() == "[":
                for item in self._items():
                    yield str(name), item
            else:
                self._value()
            if self._take(",}") == "}":
                return

    def entries(self) -> Iterator[tuple[str, str, Any]]:
        for outer in self._names():
            for inner in self._names():
                yield outer, inner, self._value()

    def _names(self) -> Iterator[str]:
        """Give an object's names; who asks takes each value before the next."""
        self._take("{")
        if self._peek() == "}":
            self._take("}")
            return
        while True:
            name = self._value()
            self._take(":")
            yield str(name)
            if self._take(",}") == "}":
                return

    def _items(self) -> Iterator[Any]:
        self._take("[")
        if self._peek() == "]":
            self._take("]")
            return
        while True:
            yield self._value()
            if self._take(",]") == "]":
                return

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError:
                end = len(self._text)
            # A number at the window's end may go on after it: 1 is a value in what will be 1.5.
            if end < len(self._text) and self._text[end] in AFTER_VALUE:
                self._place = end
                return value
            if not self._grow():
                raise self._damage()

    def _take(self, allowed: str) -> str:
        found = self._peek()
        if not found or found not in allowed:
            raise self._damage()
        self._place += 1
        return found

    def _peek(self) -> str:
        """Skip blanks; return the next character, or nothing at the end."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in BLANKS:
                self._place += 1
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._grow():
                return ""

    def _grow(self) -> bool:
        try:
            chunk = self._file.read(max(CHUNK_CHARS, len(self._text) - self._place))
        except UnicodeDecodeError as error:
            raise DamagedError(f"{self._path}: not readable as JSON ({error}); is the download complete?") from None
        self._dropped += self._place
        self._text, self._place = self._text[self._place :] + chunk, 0
        return bool(chunk)

    def _damage(self) -> DamagedError:
        return DamagedError(
            f"{self._path}: not readable as JSON at character {self._dropped + self._place}; is the download complete?"
        )
