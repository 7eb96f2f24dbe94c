"""Encoded rows that are many are kept in a folder, by the digest of what they are made of, for the next process.

A file holds record batches of Arrow's, behind them what else is known of the rows as JSON with the hash of the batches,
and last of all how long that JSON is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from wheretune import __version__
from wheretune.data.mapped import BLOCK, MappedBatches
from wheretune.errors import OutputError
from wheretune.support.files import PARTIAL, digest, digest_rows, write
from wheretune.support.log import log
from wheretune.support.processes import writes

if TYPE_CHECKING:
    from wheretune.data.texts import TextData

FORMAT = 1  # counts up when the same texts make other rows
NAMED = "WHERETUNE_CACHE"  # the variable that names another folder; empty keeps nothing
MOST = 8 * 2**30  # bytes in the folder
DAY = 24 * 60 * 60
LENGTH = 8  # bytes that say how long the JSON is


@dataclass(frozen=True)
class Recipe:
    """What encoded rows are made of, and what is said of them when all are made.

    Attributes:
        digest: Gives a digest of what they are made of; None keeps them for nobody.
        said: What is said: filled by whoever makes the rows, or by what an earlier process has written down.
    """

    digest: Callable[[], str | None]
    said: list[str]


def digest_of(data: TextData, tokenizer: Any, max_length: int, task: Any = None) -> str | None:
    """A digest of all that encoded rows are made of; None where that cannot be told.

    Args:
        data: The texts. The rows themselves count, not where they lie.
        tokenizer: One of the library `tokenizers` is known by all that it does; of another kind that cannot be told.
        max_length: Tokens a text is cut to.
        task: What else they are made of, to be written as JSON.
    """
    if any(data.images or ()) or not tokenizer.is_fast:
        return None
    import tokenizers
    import transformers

    said: str = tokenizer.backend_tokenizer.to_str()
    content = said.partition('"added_tokens"')[2]  # before it stands how the latest texts were cut and padded
    if not content:
        return None
    settings = [
        tokenizer.__class__.__name__, tokenizer.special_tokens_map, tokenizer.model_input_names,
        tokenizer.truncation_side, tokenizer.split_special_tokens,
    ]  # fmt: skip
    columns = [data.texts, data.rows, data.labels, data.continuations]
    rows = zip(*(column for column in columns if column is not None), strict=True)
    there = [column is not None for column in columns]
    versions = [FORMAT, __version__, tokenizers.__version__, transformers.__version__]
    tokens = hashlib.sha256(content.encode()).hexdigest()
    return digest([digest_rows(rows), there, tokens, settings, max_length, task, versions])


def folder() -> Path | None:
    """Where rows are kept: in the user's cache, or where the environment says; None where it says nowhere."""
    named = os.environ.get(NAMED)
    if named is not None:
        return Path(named) / "tokens" if named else None
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wheretune" / "tokens"
    except RuntimeError:  # a user without a home
        return None


def opened(key: str) -> tuple[MappedBatches, dict[str, Any]] | None:
    """The rows that an earlier process has kept, and what it wrote of them; None where there are none, or damaged."""
    place = folder()
    if place is None:
        return None
    path = place / f"{key}.arrow"
    try:
        with path.open("rb") as file, tempfile.TemporaryFile(prefix="wheretune-") as own:
            about = _copied(file, own)
            rows = MappedBatches(own)  # others may remove or replace what lies in the folder
        with suppress(OSError):
            os.utime(path)  # what was used last goes last
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
        log.warning("%s cannot be used (%s); the tokens are made anew", path, error)
        return None
    return rows, about


def _copied(file: BinaryIO, own: BinaryIO) -> dict[str, Any]:
    """Copies the batches of a file, and gives what stands behind them.

    Raises:
        ValueError: The file is damaged.
        KeyError: Likewise.
    """
    file.seek(-LENGTH, os.SEEK_END)
    length = int.from_bytes(file.read(LENGTH), "little")
    left = file.tell() - LENGTH - length
    if left <= 0:
        raise ValueError("it is damaged")
    file.seek(left)
    about: dict[str, Any] = json.loads(file.read(length))
    file.seek(0)
    found = hashlib.sha256()
    while left > 0 and (block := file.read(min(BLOCK, left))):
        found.update(block)
        own.write(block)
        left -= len(block)
    own.flush()
    if found.hexdigest() != about["sha256"]:
        raise ValueError("it is damaged")
    return about


def keep(key: str, rows: MappedBatches, about: dict[str, Any]) -> None:
    """Keeps rows for the next process, where there is a place for them; those that were not used for longest make room.

    Several processes may keep the same rows at once: each writes a draft of its own and renames it.

    Args:
        key: What they are made of.
        rows: The rows.
        about: What else is to be known of them, as JSON has it.
    """
    place = folder()
    if place is None or not writes() or rows.size > MOST:
        return
    try:
        with suppress(OSError):  # which `write` says in words
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_room(place, MOST - rows.size)
        write(place / f"{key}.arrow", lambda draft: _fill(draft, rows, about))
    except OutputError as error:
        log.warning("the tokens are not kept for the next run: %s (%s names another folder)", error.problem, NAMED)


def _fill(draft: Path, rows: MappedBatches, about: dict[str, Any]) -> None:
    found = hashlib.sha256()
    with draft.open("wb") as file:
        for block in rows.content():
            found.update(block)
            file.write(block)
        said = json.dumps({**about, "sha256": found.hexdigest()}).encode()
        file.write(said + len(said).to_bytes(LENGTH, "little"))


def make_room(place: Path, most: int) -> None:
    """Removes what was not used for longest until the rest has at most so many bytes, and drafts of the killed."""
    for draft in place.glob(f".*{PARTIAL}*"):
        with suppress(OSError):
            if draft.stat().st_mtime < time.time() - DAY:
                shutil.rmtree(draft, ignore_errors=True)
    there = []
    for path in place.glob("*.arrow"):
        with suppress(OSError):  # another process has removed it
            there.append((path.stat().st_mtime, path.stat().st_size, path))
    for _, size, path in sorted(there, reverse=True):
        most -= size
        if most < 0:
            with suppress(OSError):
                path.unlink()
