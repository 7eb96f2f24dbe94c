"""What a model sees of images, by its own processor: the words in their places, and the numbers beside the tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wheretune.data.turns import CannotRender
from wheretune.errors import DataError
from wheretune.support.sight import processor_of, require_processor
from wheretune.support.words import counted, first_line

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.data.chat import Rendered
    from wheretune.records.data import Batch

BETWEEN = "\u241e"  # what stands between the places of several images, and that no processor writes for one
OF_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
KINDS = ("mm_token_type_ids", "token_type_ids")  # what some models read of every token: whether it is of an image

Parts = tuple[tuple[str, bool], ...]


class CannotSee(CannotRender):
    """Why a processor does not take the images of a conversation."""


class Eyes:
    """A processor that is asked for images.

    Args:
        processor: Any of Transformers' that has a token for images.

    Attributes:
        token: What stands in a text for an image.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.token: str = processor.image_token
        self._known: dict[tuple[tuple[int, int], ...], list[str]] = {}  # by the sizes of a row's images

    def words(self, files: Sequence[str]) -> list[str]:
        """What the processor writes in the place of each image of a row; it hangs on their sizes.

        It is heard from what the processor gives its tokenizer to read.

        Raises:
            CannotSee: The processor does not take such images.
            DataError: A file cannot be read.
        """
        images = [_opened(file) for file in files]
        sizes = tuple(one.size for one in images)
        if sizes not in self._known:
            listening = copy.copy(self._processor)
            listening.tokenizer = heard = _Listening(self._processor.tokenizer)
            try:
                listening(text=[BETWEEN.join([self.token] * len(images))], images=[images], return_tensors="pt")
            except Exception as error:  # in whatever words
                raise CannotSee(f"the processor does not take the images ({first_line(error)})") from error
            found = heard.text.split(BETWEEN)
            if len(found) != len(images):
                raise CannotSee(f"the processor writes {counted(len(found), 'image')} for {len(images)}")
            self._known[sizes] = found
        return self._known[sizes]

    def seen(self, rows: Sequence[Sequence[str]]) -> Batch:
        """What the model reads of the images of some rows, of which not all need have any, beside their tokens.

        Raises:
            DataError: A file cannot be read.
        """
        from torch import Tensor

        texts = [BETWEEN.join([self.token] * len(files)) for files in rows]
        images = [[_opened(file) for file in files] for files in rows]
        made = self._processor(text=texts, images=images, padding=True, return_tensors="pt")
        return {name: value for name, value in made.items() if name not in OF_TOKENS and isinstance(value, Tensor)}

    def kinds(self, ids: Tensor) -> Batch:
        """Which tokens of a batch are of images, for models that read it."""
        import torch

        own, names = self._processor.tokenizer.model_input_names, self._processor.model_input_names
        tokens = getattr(self._processor, "image_token_ids", None) or [self._processor.image_token_id]
        of_images = torch.isin(ids, torch.tensor(tokens, device=ids.device)).long()
        return {name: of_images for name in KINDS if name in names and name not in own}


class _Listening:
    """A tokenizer that remembers the text that it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.text = tokenizer, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        self.text = text if isinstance(text, str) else text[0]
        return self._tokenizer(text, *args, **kwargs)


def eyes_of(tokenizer: Any) -> Eyes | None:
    """The eyes of the model that a tokenizer belongs to; None where it has none."""
    processor = processor_of(tokenizer)
    return None if processor is None else Eyes(processor)


def require_eyes(tokenizer: Any) -> Eyes:
    """The eyes of the model that a tokenizer belongs to.

    Raises:
        ModelError: It has none.
    """
    return Eyes(require_processor(tokenizer))


def seen_beside(ids: Tensor, images: Sequence[Sequence[str]], tokenizer: Any) -> Batch:
    """What the model of a tokenizer reads beside the tokens of a batch, where they lie.

    Args:
        ids: The tokens.
        images: The files of the images of each row; some row has any.
        tokenizer: Part of the model's processor.

    Raises:
        DataError: A file cannot be read.
    """
    eyes = require_eyes(tokenizer)
    return eyes.kinds(ids) | {name: value.to(ids.device) for name, value in eyes.seen(images).items()}


def _opened(file: str) -> Any:
    """An image as Transformers opens it: upright, in three colours."""
    from transformers.image_utils import load_image

    try:
        return load_image(file)
    except Exception as error:  # whatever Pillow makes of a broken file
        raise DataError(
            f"the image {file} cannot be read: {first_line(error)}", "mend it, or leave its row out"
        ) from error


def looked_at(made: Rendered, token: str, words: Sequence[str]) -> Rendered:
    """A conversation with what the processor writes in the places of its images.

    Args:
        made: The conversation; what people wrote in it is no place of an image.
        token: What stands for an image.
        words: What stands in the place of each.

    Raises:
        CannotRender: There are other places than images.
    """
    parts, places = _expanded(made.parts, token, words)
    longer = [len(word) - len(token) for word in words]

    def shift(place: int) -> int:
        return place + sum(more for start, more in zip(places, longer, strict=True) if start < place)

    return replace(
        made,
        parts=parts,
        learned=tuple((shift(start), shift(stop)) for start, stop in made.learned),
        images=tuple((shift(start), shift(start) + len(word)) for start, word in zip(places, words, strict=True)),
    )


def _expanded(parts: Parts, token: str, words: Sequence[str]) -> tuple[Parts, list[int]]:
    """The parts of a text with words in the place of its tokens for images, and where these were."""
    made, places, start = [], list[int](), 0
    left = iter(words)
    for text, written in parts:
        pieces = [text] if written else text.split(token)
        for number, piece in enumerate(pieces):
            if number:
                places.append(start)
                start += len(token)
            start += len(piece)
        said = [pieces[0], *(next(left, token) + piece for piece in pieces[1:])]
        made.append(("".join(said), written))
    if len(places) != len(words):
        raise CannotRender(f"it writes {counted(len(places), 'place')} for {counted(len(words), 'image')}")
    return tuple(made), places
