"""What a process has opened: models and data, each once, however many runs use them.

It opens no torch before it opens a model, so data can be refused before that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from wheretune.tasks.loading import load_data, to_score

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.model.opening import Opened
    from wheretune.records.data import DataInfo, DataSpec
    from wheretune.records.model import ModelSpec
    from wheretune.tasks.base import LabelUse
    from wheretune.tasks.streaming import StreamedTexts

TAKEN_FROM = {"required": ("required",), "optional": ("optional", "required"), "ignored": ("ignored",)}


class Session:
    """What is open already.

    Args:
        shared: Several runs use the models, so each gives back the weights that it trained.
        on_host: Models stay in main memory, to be cut into shards.
    """

    def __init__(self, *, shared: bool = True, on_host: bool = False) -> None:
        self.shared, self._on_host = shared, on_host
        self._models: dict[tuple[ModelSpec, bool], Opened] = {}
        self._data: dict[str, TextData] = {}
        self._streams: dict[str, StreamedTexts] = {}

    def model(self, spec: ModelSpec, *, language: bool = False) -> Opened:
        """A model with its tokenizer; one that was opened as a language model also serves without its output matrix."""
        opened = self._models.get((spec, True)) or self._models.get((spec, language))
        if opened is None:
            from wheretune.model.opening import open_model

            opened = self._models[spec, language] = open_model(spec, language=language, on_host=self._on_host)
        return opened

    def data(self, spec: DataSpec, *, like: DataInfo | None = None, labels: LabelUse = "required") -> TextData:
        """Checked data."""
        for use in TAKEN_FROM[labels]:
            if (found := self._data.get(_key(spec, like, use))) is not None:
                return found
        found = self._data[_key(spec, like, labels)] = load_data(spec, like=like, labels=labels)
        return found

    def to_score(self, spec: DataSpec, needs: Collection[str]) -> TextData | StreamedTexts:
        """As `texts`, or a stream where the spec says so, which has then been begun."""
        if spec.streaming is None:
            return self.texts(spec, needs)
        key = _key(spec, None, " ".join(sorted(needs)))
        if key not in self._streams:
            from wheretune.tasks.streaming import StreamedTexts

            self._streams[key] = StreamedTexts(spec, needs)
        return self._streams[key]

    def texts(self, spec: DataSpec, needs: Iterable[str]) -> TextData:
        """Data to be scored by scorers with these needs; labels that make no task are left aside if none needs them."""
        following = spec.task.params.get("target_column") is not None  # what follows a text stands for its label
        texts = to_score(lambda use: self.data(spec, labels=use), () if following else needs)
        if texts.labels is None:
            self._data[_key(spec, None, "optional")] = texts
        return texts


def _key(spec: DataSpec, like: DataInfo | None, labels: str) -> str:
    return repr((spec, like and like.hash, labels))
