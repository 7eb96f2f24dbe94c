"""A file of JSON lines, one per row, that grows while they are made: nothing that was written is lost.

While it grows its lines stand in the order in which they were made; a finished one is in the order of the rows. Beside
it lies what it was begun for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wheretune.errors import OutputError, WheretuneError
from wheretune.support.files import claim, refusal, sweep, write_text

Line = dict[str, Any]
AGAIN = "give the settings that it was begun with, start it over (overwrite), or choose another file"


@contextmanager
def growing(path: Path, content: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[RowLines]:
    """A file that was begun and goes on, of which one process writes at a time.

    What is refused before a line is written was not begun.

    Args:
        path: The file.
        content: What it is for.
        overwrite: Start it over.

    Raises:
        OutputError: Another process writes it, or as `RowLines` says.
    """
    with _alone(path):
        fresh = overwrite or not about_file(path).is_file()
        lines = RowLines(path, content, overwrite=overwrite)
        try:
            yield lines
        except WheretuneError:
            if fresh and not lines.rows:
                about_file(path).unlink(missing_ok=True)
            raise


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other processes from a file; the system lets go of it when a process dies."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        busy = f"another process is writing {path}"
        raise OutputError(busy, "wait for it, or choose another file", "output") from error
    except NotImplementedError:  # a file system that locks nothing
        yield
        return
    except OSError as error:
        raise refusal(path, error, "choose another file") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


class RowLines:
    """A file that was begun, and goes on.

    Args:
        path: The file.
        content: What it is for.
        overwrite: Start it over.

    Raises:
        OutputError: It is another file, was begun for something else, or cannot be written.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = path
        about = about_file(path)
        try:
            sweep(path.parent, path.name)
            if overwrite:
                path.unlink(missing_ok=True)
                about.unlink(missing_ok=True)
            if not about.is_file() and path.is_file() and path.stat().st_size:
                raise OutputError(
                    f"{path} is there already, and was not begun by this command",
                    "start it over (overwrite), or choose another file",
                    "output",
                )
            claim(about, content, AGAIN, begun=path)
            self._lines = self._read()
        except OSError as error:
            raise refusal(path, error, "choose another file") from error

    @property
    def rows(self) -> Mapping[int, Line]:
        """The lines that are written, by their row."""
        return self._lines

    def _read(self) -> dict[int, Line]:
        """The whole lines that are there; the piece of one that a killed process left is cut off."""
        if not self.path.is_file():
            return {}
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        found: dict[int, Line] = {}
        for number, text in enumerate(whole.split(b"\n")[:-1], start=1):
            try:
                line = json.loads(text)
                found[int(line["row"])] = {"row": int(line["row"]), **line}
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise OutputError(
                    f"{self.path} line {number} was not written by this command", AGAIN, "output"
                ) from error
        if whole != content:
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        return found

    def add(self, lines: Iterable[Line]) -> None:
        """Writes lines, which are on the disk when this returns.

        Raises:
            OutputError: They cannot be written.
        """
        made = list(lines)
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(written(made))
                file.flush()
                with suppress(OSError):  # a place that cannot sync
                    os.fsync(file.fileno())
        except OSError as error:
            raise refusal(self.path, error, "choose another file") from error
        self._lines.update({line["row"]: line for line in made})

    def finish(self) -> None:
        """Brings the lines into the order of the rows.

        Raises:
            OutputError: They cannot be written.
        """
        write_text(self.path, written(self._lines[row] for row in sorted(self._lines)))


def about_file(path: Path) -> Path:
    """The file beside a file of lines that says what it was begun for."""
    return path.with_name(f"{path.name}.settings.json")


def written(lines: Iterable[Line]) -> str:
    """Lines as a file has them."""
    return "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
