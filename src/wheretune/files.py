"""Files that are written whole or not at all: temporary name, fsync, rename."""

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wheretune.errors import OutputError

PARTIAL = ".partial-"  # in the name of every draft, so that what a killed process left can be told and swept


def write(path: Path, fill: Callable[[Path], None]) -> None:
    """Lets `fill` write a draft (a file, or a folder that is not there yet) beside `path`, then renames it to `path`.

    Raises:
        OutputError: The place cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}{PARTIAL}", dir=path.parent))
        try:
            draft = scratch / path.name
            fill(draft)
            for part in [draft, *draft.rglob("*")] if draft.is_dir() else [draft]:
                part.chmod(0o755 if part.is_dir() else 0o644)  # safetensors would keep its files to their owner
                _fsync(part)
            draft.replace(path)
            _fsync(path.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error})", "choose another --output") from error


def sweep(folder: Path) -> None:
    """Removes the drafts that a killed process left in `folder`."""
    for path in folder.glob(f".*{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8."""
    write(path, lambda draft: _keep(draft.write_text(text, encoding="utf-8")))


def _keep(_: object) -> None:
    """Drops a return value."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented; a number that is not finite is refused, never written as NaN."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Writes `rows` under a header of `columns`."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def digest(content: Any) -> str:
    """SHA-256 of the canonical JSON of `content`."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest_of(rows: Iterable[Any]) -> str:
    """SHA-256 over the canonical JSON of each row, one at a time."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return found.hexdigest()


def take_folder(folder: Path, marker: str, finished: str, *, resume: bool, overwrite: bool) -> None:
    """Makes `folder` ready to be written to. A stopped run goes on without being asked to.

    Args:
        folder: Where the command writes.
        marker: The file that shows that this command of wheretune wrote the folder.
        finished: The file that shows that it had finished.
        resume: Take a finished folder as well.
        overwrite: Start over.

    Raises:
        OutputError: It holds something else, or a finished run and neither `resume` nor `overwrite` is given.
    """
    if folder.is_file():
        raise OutputError(f"{folder} is a file", "give a folder as --output")
    sweep(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / marker).is_file():
        raise OutputError(
            f"the folder {folder} already exists and was not written by this command",
            "choose another --output, or empty the folder yourself",
        )
    if overwrite:
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}{PARTIAL}", dir=folder.parent))
        folder.rename(aside / folder.name)  # gone at once: a kill while it is deleted leaves no half of it
        shutil.rmtree(aside)
    elif (folder / finished).is_file() and not resume:
        raise OutputError(
            f"the folder {folder} already exists and holds a finished run",
            "read it again with --resume, replace it with --overwrite, or choose another --output",
        )


def claim(path: Path, content: Mapping[str, Any]) -> None:
    """Writes down what a folder is for, or makes sure that this is what it already is for.

    Raises:
        OutputError: The folder was begun with other settings; one that differs is named.
    """
    wanted = json.loads(json.dumps(content, allow_nan=False))
    if not path.is_file():
        write_json(path, wanted)
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    if there != wanted:
        keys = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
        raise OutputError(
            f"{path.parent} was begun with other settings ({', '.join(keys)})",
            "start it over with --overwrite or choose another --output",
        )
