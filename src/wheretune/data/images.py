"""Images of conversations: the files that a row names, and where each stands in its messages.

Where an image stands, a content has a part `{"type": "image"}` or, in a text, `<image>`. Where nothing says it, images
stand before the first that a user says, as in TRL. The column has paths, from the folder of the file that names them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from wheretune.data.dialects import IMAGE, BadRow, without_gaps
from wheretune.support.words import counted, first_line

COLUMNS = ("images", "image")  # how public data sets call them
PLACE = re.compile(r"\n?<image>\n?")  # a line break beside a place is of the place: the template writes its own


def image_files(cell: object, folder: Path) -> tuple[str, ...]:
    """The files that a cell names, one path or a list of them, which may be written as JSON; none of an empty one.

    Args:
        cell: The cell.
        folder: Where paths begin that are not absolute.

    Raises:
        BadRow: It holds something else, or a file is missing or no image.
    """
    found = without_gaps(cell)
    if isinstance(found, str) and found.lstrip().startswith("["):
        try:
            found = without_gaps(json.loads(found))
        except ValueError as error:
            raise BadRow("images that are no list of paths") from error
    every: list[Any] = found if isinstance(found, list) else [found]
    named = [one for one in every if one is not None and one != ""]
    if not all(isinstance(one, str) for one in named):
        raise BadRow("images that are no paths of files")
    for one in named:
        if not (folder / one).is_file():
            raise BadRow(f"the image {one}, which is not there,")
        try:
            known_by(str(folder / one))
        except Exception as error:  # whatever Pillow makes of it
            raise BadRow(f"the image {one}, which cannot be read ({first_line(error)}),") from error
    return tuple(str((folder / one).absolute()) for one in named)


def known_by(path: str) -> str:
    """What an image is known by, wherever it lies: the SHA-256 of its file.

    Raises:
        OSError: It cannot be read, or is no image; Pillow has other exceptions for some that are broken.
    """
    about = Path(path).stat()
    return _known_by(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=2**20)
def _known_by(path: str, changed: int, size: int) -> str:
    from PIL import Image

    with Image.open(path) as image:
        image.verify()
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_images(conversation: str, files: tuple[str, ...]) -> str:
    """A conversation whose messages have a place for each of its images, and what these are known by.

    Args:
        conversation: As `dialects` gives it.
        files: Its images.

    Raises:
        BadRow: It has other places than images, or no messages.
    """
    made: dict[str, Any] = json.loads(conversation)
    messages: list[dict[str, Any]] = made.get("messages", [])
    places = sum(one == IMAGE for message in messages for one in _parts(message))
    if not files and not places:
        return conversation
    if not messages:
        raise BadRow("images beside a prompt that is a text")
    if not places:
        messages = [_split(message) for message in messages]
        places = sum(one == IMAGE for message in messages for one in _parts(message))
    if not places:
        messages, places = _before_the_first(messages, len(files)), len(files)
    if places != len(files):
        raise BadRow(f"{counted(places, 'place')} for {counted(len(files), 'image')}")
    kept = {**made, "messages": messages, "images": [known_by(file) for file in files]}
    return json.dumps(kept, ensure_ascii=False)


def _parts(message: dict[str, Any]) -> list[dict[str, str]]:
    """The parts of a content; none of one that is a text."""
    content = message.get("content")
    return content if isinstance(content, list) else []


def _split(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose content is in parts where its text says that images stand there."""
    content = message.get("content")
    if not isinstance(content, str) or PLACE.search(content) is None:
        return message
    return {**message, "content": list(_around(PLACE.split(content)))}


def _around(texts: list[str]) -> Iterator[dict[str, str]]:
    """Texts with an image between any two."""
    for number, text in enumerate(texts):
        if number:
            yield dict(IMAGE)
        if text:
            yield {"type": "text", "text": text}


def _before_the_first(messages: list[dict[str, Any]], images: int) -> list[dict[str, Any]]:
    """Messages with images before the first that a user says."""
    first = next((place for place, one in enumerate(messages) if one["role"] == "user"), None)
    if first is None:
        raise BadRow("images, and no user who shows them")
    text = messages[first].get("content", "")
    said = [{"type": "text", "text": text}] if text else []
    shown = {**messages[first], "content": [dict(IMAGE) for _ in range(images)] + said}
    return [*messages[:first], shown, *messages[first + 1 :]]
