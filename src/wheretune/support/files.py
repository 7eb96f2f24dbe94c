"""Files that are written whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wheretune.errors import OutputError, WheretuneError
from wheretune.support.log import log

SHOWN = 3  # differences that a message names
PARTIAL = ".partial-"  # in the name of every draft, so that what a killed process left is known and swept
NO_ROOM = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
LOST = {errno.EIO, *NO_ROOM}  # what fsync says when content did not reach the disk; all else: it cannot be done there


def at_home(path: str) -> str:
    """A path whose `~` no shell has spelled out: quoted, behind `--model=`, in a config."""
    return str(Path(path).expanduser()) if path.startswith("~/") else path


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Lets `fill` write a draft (a file, or a folder that is not there yet) beside `path`, then renames it to `path`.

    Raises:
        OutputError: The place cannot be written to.
    """
    try:
        path = path.resolve()
        if path.exists() and not path.is_file() and not path.is_dir():  # /dev/null, a pipe: nothing to be renamed
            with tempfile.TemporaryDirectory() as elsewhere:
                fill(Path(elsewhere) / "draft")
                path.write_bytes((Path(elsewhere) / "draft").read_bytes())
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}{PARTIAL}", dir=path.parent))
        try:
            draft = scratch / path.name
            fill(draft)
            for part in [draft, *draft.rglob("*")] if draft.is_dir() else [draft]:
                with suppress(OSError):  # a file system without modes, or with an owner of its own
                    part.chmod(0o755 if part.is_dir() else 0o644)  # safetensors would keep its files to their owner
                _fsync(part)
            draft.replace(path)
            _fsync(path.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise refusal(path, error, "choose another place") from error


def refusal(path: Path, error: OSError, remedy: str) -> OutputError:
    """What to say when a place cannot be written to: the system's own words, and what helps."""
    remedy = f"free some room there, or {remedy}" if error.errno in NO_ROOM else remedy
    return OutputError(f"cannot write {path} ({error.strerror or error})", remedy, "output")


def check_writable(folder: Path) -> None:
    """Makes sure that something can be written into a folder, which need not be there yet; nothing is left behind.

    Raises:
        OSError: Nothing can.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    tempfile.TemporaryDirectory(prefix=PARTIAL, dir=there).cleanup()


def sweep(folder: Path, name: str = "*") -> None:
    """Removes the drafts of `name` that a killed process left in `folder`, which must be nobody else's meanwhile."""
    for path in folder.glob(f".{name}{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def _fsync(path: Path) -> None:
    """Makes sure that a file or a folder is on the disk, where the system offers that.

    Windows opens no folder and syncs no file that was opened to be read; some network file systems sync no folder.

    Raises:
        OSError: Content was lost.
    """
    try:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in LOST:
            raise


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8, its lines ended as they are, also on Windows."""
    write(path, lambda draft: draft.write_text(text, encoding="utf-8", newline="\n"))


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


def digest_rows(rows: Iterable[Any]) -> str:
    """SHA-256 over the canonical JSON of each row, one at a time."""
    found = hashlib.sha256()
    add_rows(found, rows)
    return found.hexdigest()


def add_rows(found: hashlib._Hash, rows: Iterable[Any]) -> None:
    """Adds rows to a hash as `digest_rows` does."""
    for row in rows:
        found.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")


@contextmanager
def taking(folder: Path, owned: Sequence[str], *, overwrite: bool) -> Iterator[None]:
    """Makes `folder` ready to be written to. A stopped run goes on without being asked to, a finished one stays.

    That nothing else is mixed into either is the concern of `claim`.

    If what is done inside fails for something the user can mend, before anything of worth is there, a folder that was
    begun here is removed again.

    Args:
        folder: Where the command writes.
        owned: Patterns of the names that the command writes; the first is the file that marks the folder as its own.
        overwrite: Start over: what the command wrote goes, anything else stays.

    Raises:
        OutputError: It holds something else.
    """
    try:
        check_place(folder, owned)
        fresh = overwrite or not (folder / owned[0]).is_file()
        if folder.is_dir():
            sweep(folder)
            if overwrite:
                _clear(folder, owned)
    except OSError as error:
        raise refusal(folder, error, "choose another folder") from error
    try:
        yield
    except WheretuneError:
        if fresh and folder.is_dir() and {path.name for path in folder.iterdir()} <= {owned[0]}:
            shutil.rmtree(folder)
        raise


def check_place(folder: Path, owned: Sequence[str]) -> None:
    """Refuses a folder as `taking` does, and changes nothing.

    Raises:
        OutputError: It holds something else, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is no folder", "give a folder", "output")
    try:
        check_writable(folder)
        names = {path.name for path in folder.iterdir() if PARTIAL not in path.name} if folder.is_dir() else set()
    except OSError as error:
        raise refusal(folder, error, "choose another folder") from error
    if names and owned[0] not in names:
        raise OutputError(
            f"the folder {folder} already exists and was not written by this command",
            "choose another folder, or empty it yourself",
            "output",
        )


def _clear(folder: Path, owned: Sequence[str]) -> None:
    """Removes what a command wrote; anything else stays."""
    aside = Path(tempfile.mkdtemp(prefix=f".old{PARTIAL}", dir=folder))
    for pattern in owned:  # the mark goes first: a kill in between leaves a folder that is nobody's to resume
        for path in folder.glob(pattern):
            shutil.move(path, aside / path.name)  # overlay file systems rename no folder of a lower layer
    shutil.rmtree(aside)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other process works in `folder`, which is made, and keeps others out until the end.

    It leaves no file behind, and the system lets go of the folder of a process that dies. Where a file system has no
    locks on folders nobody waits.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(folder, error, "choose another folder") from error
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another process works in %s; waiting for it", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


def claim(
    path: Path,
    content: Mapping[str, Any],
    remedy: str = "start it over (overwrite) or choose another folder",
    *,
    renewed: Callable[[Any], Any] = lambda there: there,
    begun: Path | None = None,
) -> None:
    """Writes down what a folder is for, or makes sure that this is what it already is for.

    Args:
        path: The file that says so.
        content: What for.
        remedy: What to do about a folder that is for something else.
        renewed: Makes of what an earlier version wrote what this one would.
        begun: What was begun; the folder of `path` by default.

    Raises:
        OutputError: The folder was begun with other settings; what differs is named, with both values.
    """
    wanted = json.loads(json.dumps(content, allow_nan=False))
    if _is_free(path):
        write_json(path, wanted)
        return
    found = list(differences(renewed(json.loads(path.read_text(encoding="utf-8"))), wanted))
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise OutputError(
            f"{begun or path.parent} was begun with other settings ({'; '.join(found[:SHOWN])}{more})", remedy, "output"
        )


def _is_free(path: Path) -> bool:
    """Whether a folder is for nothing yet: nobody claimed it, or who did took that back (`{}`)."""
    return not path.is_file() or json.loads(path.read_text(encoding="utf-8")) == {}


@contextmanager
def claimed(
    path: Path,
    content: Mapping[str, Any],
    *,
    renewed: Callable[[Any], Any] = lambda there: there,
    made: Sequence[str] = (),
) -> Iterator[None]:
    """`claim`, taken back where what is done inside is refused: the same folder may then be begun otherwise.

    A claim that was there before stays.

    Args:
        path: The file that says what the folder is for.
        content: What for.
        renewed: Makes of what an earlier version wrote what this one would.
        made: Names of files beside it that are good for `content` alone; they go too.

    Raises:
        OutputError: The folder was begun with other settings.
    """
    fresh = _is_free(path)
    claim(path, content, renewed=renewed)
    try:
        yield
    except WheretuneError:
        if fresh:
            for name in made:
                (path.parent / name).unlink(missing_ok=True)
            write_json(path, {})  # whatever else is there (the trials of a scorer) stays the command's own
            if {one.name for one in path.parent.iterdir()} == {path.name}:
                shutil.rmtree(path.parent)
        raise


def differences(there: Any, wanted: Any, where: str = "") -> Iterator[str]:
    """The settings that differ, with both values where these are short; of a setting of its own, its name alone."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]:
            yield from differences(there.get(key), wanted.get(key), f"{where}.{key}" if where else key)
    elif there != wanted:
        values = [json.dumps(value, ensure_ascii=False) for value in (there, wanted)]
        short = max(map(len, values)) <= 40
        yield f"{where}: {values[0]} there, {values[1]} now" if short else where
