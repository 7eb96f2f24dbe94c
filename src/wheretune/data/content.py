"""What stands in a file, as bytes and as lines: unpacked, and in the encoding that it is in."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from wheretune.errors import DataError

STANDARD_INPUT = "-"
PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}  # ending -> the module that opens it
BEGINNINGS = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz"}
FOREIGN = {  # what begins so is no table, whatever its name -> what it is, what to do
    b"PK\x03\x04": ("a zip archive, or a workbook of Excel", "unpack it, or save the sheet as .csv"),
    b"version https://git-lfs": ("a pointer of git-lfs, not the file itself", "run `git lfs pull` where it lies"),
}
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # byte order marks


@cache
def _standard_input() -> bytes:
    """All of standard input, which can be read once only."""
    return sys.stdin.buffer.read()


@dataclass(frozen=True)
class Content:
    """What stands in a file, read from its beginning as often as it is asked for.

    Attributes:
        name: The file's.
        packed: The ending of how it is packed; empty where it is not.
    """

    name: str
    packed: str = ""

    @classmethod
    def of(cls, name: str, ending: str | None) -> Content:
        """What stands in a file with such an ending, unpacked."""
        suffix = Path(ending or "").suffix
        if suffix in PACKED:
            return cls(name, suffix)
        with cls(name).opened() as file:
            beginning = file.read(64)
        for mark, (what, remedy) in FOREIGN.items():
            if beginning.startswith(mark):
                raise DataError(f"{name} is {what}", remedy)
        return cls(name, next((ending for mark, ending in BEGINNINGS.items() if beginning.startswith(mark)), ""))

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Its bytes."""
        with ExitStack() as after:
            file: Any = io.BytesIO(_standard_input()) if self.name == STANDARD_INPUT else None
            file = file or after.enter_context(Path(self.name).open("rb"))
            if self.packed:
                file = after.enter_context(import_module(PACKED[self.packed]).open(file))
            yield file

    def lines(self, newline: str = "\n") -> Iterator[str]:
        """Its lines with their ends: UTF-8, or what its first bytes say.

        Args:
            newline: As `open` has it.

        Raises:
            DataError: It is not that.
        """
        with self.opened() as file:
            encoding = _encoding(file.read(4))
            file.seek(0)
            with io.TextIOWrapper(file, encoding=encoding, newline=newline) as text:
                try:
                    yield from text
                except UnicodeDecodeError:
                    raise self._fault(encoding) from None

    def text(self) -> str:
        """All of its text.

        Raises:
            DataError: As for `lines`.
        """
        return "".join(self.lines())

    def _fault(self, encoding: str) -> DataError:
        """Says which byte of which line is not in an encoding."""
        with self.opened() as file:
            content = file.read()
        try:
            content.decode(encoding)
            where = ""
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            where = f" (byte {content[error.start]:#04x} in line {line})"
        return DataError(
            f"{self.name} is not {encoding.upper()}{where}", "save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)"
        )


def _encoding(beginning: bytes) -> str:
    """The encoding of a text by its first four bytes: that of its byte order mark, or of the zeros of UTF-16."""
    marked = next((one for mark, one in MARKS.items() if beginning.startswith(mark)), None)
    if marked is None and len(beginning) == 4 and beginning.count(0) == 2:
        marked = {beginning[1::2]: "utf-16-le", beginning[::2]: "utf-16-be"}.get(b"\0\0")
    return marked or "utf-8"
