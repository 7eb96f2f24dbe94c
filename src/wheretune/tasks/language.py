"""What the tasks of language models share: they learn tokens of the texts themselves, through the model's own head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, runtime_checkable

from wheretune.data.chat_templates import named_template
from wheretune.data.kept_tokens import Recipe, digest_of
from wheretune.data.reading import rows_in_words
from wheretune.data.stored import PART, kept_rows
from wheretune.errors import DataError, ModelError
from wheretune.model.apart import reads_apart
from wheretune.records.base import Spec, to_json
from wheretune.support.log import log
from wheretune.tasks.base import Labelled
from wheretune.tasks.learned import likelihoods, start_of_answer

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Shaped
    from torch import Tensor

    from wheretune.data.cells import Fault
    from wheretune.data.examples import Example, Prompt
    from wheretune.data.reading import Table
    from wheretune.data.texts import TextData
    from wheretune.metrics.base import Predictions, Written
    from wheretune.records.data import Collate
    from wheretune.tasks.base import LabelUse, Places


class LanguageTask(ABC):
    """What is to be learned of texts token by token: rows -> checked texts -> examples with their targets."""

    name: ClassVar[str]
    head: ClassVar[str] = "lm"
    places: ClassVar[Places] = "every"
    problem_type: ClassVar[str | None] = None
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity")
    predicts: ClassVar[tuple[str, ...]] = ("likelihood",)
    apart: ClassVar[bool] = False  # whether an encoder-decoder can learn it, which reads one text and writes another

    @abstractmethod
    def faults(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> dict[int, Fault]:
        """By place in the table, why a row cannot be used."""

    @abstractmethod
    def texts(self, table: Table) -> tuple[Sequence[tuple[str, ...]], Sequence[str] | None]:
        """The texts of each row, which are all that is known of it later."""

    def further(self, table: Table, classes: tuple[str, ...]) -> tuple[str, ...]:
        return ()

    def labels(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> Labelled:
        """No labels: the texts hold their own targets."""
        return Labelled(self)

    @abstractmethod
    def describe(self, classes: Sequence[str]) -> str:
        """The task in words."""

    @abstractmethod
    def examples(self, data: TextData, tokenizer: Any, max_length: int) -> Iterator[Example]:
        """What the model reads of the rows, in their order, with what it learns; left-out rows with their reason.

        Args:
            data: The checked texts.
            tokenizer: The model's tokenizer.
            max_length: Tokens an example is cut to.

        Raises:
            DataError: A row cannot be rendered, and such rows are refused.
            ModelError: The tokenizer lacks what the task needs.
        """

    def encode(self, data: TextData, tokenizer: Any, max_length: int) -> Sequence[dict[str, Any]]:
        """The rows of batches; what was cut and left out is said.

        Raises:
            DataError: As for `examples`, or no row is left.
        """
        check_apart(self, tokenizer)
        choices = self.choices(data.info.classes, tokenizer)
        more = {"choices": list(choices)} if choices else {}
        seen: list[Example] = []  # without their tokens
        said: list[str] = []

        def rows() -> Iterator[dict[str, Any]]:
            for one in self.examples(data, tokenizer, max_length):
                seen.append(replace(one, ids=(), learned=(), source=None))
                if one.left_out is None:
                    yield one.encoded() | more
            said.extend(what_is_missing(data, seen, max_length))

        every = rows()
        made_of = Recipe(lambda: self._digest(data, tokenizer, max_length), said)
        kept = kept_rows(iter(lambda: list(islice(every, PART)), []), made_of)
        for one in said:
            log.warning("%s", one)
        return kept

    def _digest(self, data: TextData, tokenizer: Any, max_length: int) -> str | None:
        """What its rows are made of; None where it cannot be told."""
        spec = Spec.of(self)
        template = named_template(spec.params.get("chat_template")) or getattr(tokenizer, "chat_template", None)
        if "strftime_now" in str(template):
            return None  # a template that looks at the clock
        about = [to_json(spec), template, data.info.classes, data.info.spec.bad_rows, reads_apart(tokenizer)]
        return digest_of(data, tokenizer, max_length, about)

    def choices(self, classes: Sequence[str], tokenizer: Any) -> tuple[int, ...]:
        """The tokens among which the model is asked at the place that it is read; by default it is not asked."""
        return ()

    def predicted(self, labels: Sequence[int]) -> int:
        return start_of_answer(labels)

    def outputs(self, classes: Sequence[str]) -> int:
        return 0

    def start(self, labels: Sequence[Any]) -> float | None:
        return None

    def equip(self, tokenizer: Any) -> None:
        """By default nothing: the tokenizer's own is used, or none."""
        return None

    def collator(self, tokenizer: Any) -> Collate:
        from wheretune.data.batches import language_collator

        return language_collator(tokenizer)

    def loss(self, logits: Float[Tensor, "batch output"], labels: Shaped[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The mean over some learned tokens of -log softmax(z)_token."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, labels)

    def predict(self, logits: Float[np.ndarray, "row output"], classes: tuple[str, ...]) -> Predictions:
        """The mean of -log p over every row's learned tokens."""
        return likelihoods(logits)

    def written(self, labels: Sequence[Any], classes: Sequence[str]) -> Sequence[Written]:
        """Nothing is labelled."""
        return []

    def read_back(self, written: Any, classes: Sequence[str]) -> NoReturn:
        raise NotImplementedError(f"{self.name} keeps of a row no more than the mean over its learned tokens")

    def calibrated(self, logits: Callable[[], Float[np.ndarray, "row output"]], labels: Sequence[Any]) -> Any:
        return self


def check_apart(task: Any, tokenizer: Any) -> None:
    """Refuses a task whose text is one, where the tokenizer's model reads one text and writes another.

    Raises:
        ModelError: The tokenizer is an encoder-decoder's.
    """
    if reads_apart(tokenizer) and not getattr(task, "apart", False):
        raise ModelError(
            f"an encoder-decoder reads one text and writes another, and {task.name} learns tokens of one",
            "take the task generation, or give a causal language model",
            "task",
        )


@runtime_checkable
class Writing(Protocol):
    """A task whose model answers a row with a text; its rows may then lack what is learned (`asked`)."""

    def prompts(self, data: TextData, tokenizer: Any, max_length: int) -> Iterator[Prompt]:
        """What the model reads of the rows before it answers, in their order: the tokens before the first learned one.

        Args:
            data: The checked texts.
            tokenizer: The model's tokenizer.
            max_length: Tokens a prompt is cut to.

        Raises:
            ModelError: The tokenizer lacks what the task needs.
        """

    def endings(self, tokenizer: Any) -> frozenset[int]:
        """The tokens with which a model that learned the task ends an answer."""


def what_is_missing(data: TextData, examples: Sequence[Example], max_length: int) -> Iterator[str]:
    """How many examples were cut, and which were left out and why, in words.

    Raises:
        DataError: All were left out.
    """
    source = data.info.spec.source
    cut = [one.rows[0] for one in examples if one.cut and one.left_out is None]
    if cut:
        yield (
            f"{len(cut)} of the {len(examples)} examples of {source} are cut to {max_length} tokens, in "
            f"{rows_in_words(range(len(cut)), cut)}; a greater max_length keeps more"
        )
    reasons: dict[str, list[int]] = {}
    for one in examples:
        if one.left_out is not None:
            reasons.setdefault(one.left_out, []).append(one.rows[0])
    said = "; ".join(f"{why}, in {rows_in_words(range(len(rows)), rows)}" for why, rows in reasons.items())
    left_out = sum(map(len, reasons.values()))
    if left_out == len(examples):
        short = any(one.cut for one in examples)
        remedy, about = ("give a greater max_length", "max_length") if short else ("give data with targets", None)
        raise DataError(f"no row of {source} has anything to learn: {said}", remedy, about)
    if left_out:
        yield f"{left_out} of the {len(examples)} examples of {source} are left out: {said}"
