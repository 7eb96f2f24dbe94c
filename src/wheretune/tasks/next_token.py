"""The class of a text is the next token after a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from wheretune.data.examples import Example
from wheretune.data.shortening import shortened, without
from wheretune.data.spans import Encoder
from wheretune.data.templates import filled, parsed
from wheretune.errors import ConfigError, DataError
from wheretune.tasks.base import Labelled
from wheretune.tasks.classification import Classification
from wheretune.tasks.language import LanguageTask
from wheretune.tasks.learned import LIKELIHOOD, likelihoods

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from wheretune.data.cells import Fault
    from wheretune.data.reading import Table
    from wheretune.data.texts import TextData
    from wheretune.metrics.base import Predictions, Written
    from wheretune.tasks.base import LabelUse

ONE, TWO = "Sentence: {text}\nLabel:", "Sentence 1: {text}\nSentence 2: {pair}\nLabel:"


@final
@dataclass(frozen=True)
class NextToken(LanguageTask):
    r"""One of several classes per text (or pair of texts), said by the model's own next token after a prompt.

    Decided: the prompt is `Sentence: {text}\nLabel:`, the word of a class is its name in small letters, and what is
        learned is the first token of that word after a blank (SALF leaves all three open). Where a tokenizer makes the
        blank a token of its own, it belongs to the prompt.

    Attributes:
        text_column: The column of the texts.
        pair_column: The column of the second texts, where two are compared.
        label_column: The column of the labels; `label` by default.
        template: The prompt, with `{text}`, `{pair}` where there is one and, at its end if at all, `{label}`.
        verbalizer: The word for each class; its name in small letters by default.
        cut: Where a text that is too long is cut; cue and label stay.
    """

    text_column: str = "text"
    pair_column: str | None = None
    label_column: str | None = None
    template: str | None = None
    verbalizer: dict[str, str] | None = field(default=None, hash=False)
    cut: Literal["end", "start"] = "end"
    name: ClassVar[str] = "next-token"
    metrics: ClassVar[tuple[str, ...]] = ("macro-f1", "accuracy", "vocabulary-accuracy", "loss", "perplexity")
    predicts: ClassVar[tuple[str, ...]] = ("likelihood", "classes", "probabilities")

    def __post_init__(self) -> None:
        self._parts()

    def _parts(self) -> list[tuple[str, bool]]:
        """The parts of the prompt, up to the blank before the label."""
        template = self.template or (ONE if self.pair_column is None else TWO)
        parts = parsed(template, ("text", "pair", "label"), ("text",))
        after = [place for place, part in enumerate(parts) if part == ("label", True)]
        if after and after[0] != len(parts) - 1:
            parts = parts[: after[0] + 1]  # what would follow the label is never read
        return parts[:-1] if after else parts

    def _as_classes(self) -> Classification:
        return Classification(self.text_column, self.pair_column, self.label_column)

    def faults(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> dict[int, Fault]:
        if self.pair_column is None and ("pair", True) in self._parts():
            raise ConfigError(
                "the template has {pair}, and no column of second texts is named", "name it", "pair_column"
            )
        return self._as_classes().faults(table, classes, use)

    def texts(self, table: Table) -> tuple[Sequence[tuple[str, ...]], Sequence[str] | None]:
        return self._as_classes().texts(table)

    def labels(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> Labelled:
        read = self._as_classes().labels(table, classes, use)
        return Labelled(self, read.values, read.classes)

    def describe(self, classes: Sequence[str]) -> str:
        return f"the next token, one of {len(classes)} classes"

    def words(self, classes: Sequence[str]) -> list[str]:
        """The word for each class.

        Raises:
            DataError: The verbalizer lacks a class, or names one that is not there.
        """
        if self.verbalizer is None:
            return [name.lower() for name in classes]
        if set(self.verbalizer) != set(classes):
            wrong = sorted(set(self.verbalizer) ^ set(classes))[0]
            raise DataError(
                f"the verbalizer and the classes differ: {wrong!r} is in one only",
                f"give a word for each of {', '.join(classes)}",
                "verbalizer",
            )
        return [self.verbalizer[name].strip() for name in classes]

    def answers(self, classes: Sequence[str], tokenizer: Any) -> tuple[tuple[int, ...], ...]:
        """For each class the tokens that follow the prompt; the last of them tells the class.

        Raises:
            DataError: Two classes begin with the same token, a word has no token, or as for `words`.
        """
        parts = self._parts()
        cue = ("" if parts[-1][1] else parts[-1][0]).rstrip(" ") or "a"
        blank = "" if self._joins_directly(parts) else " "
        before = tokenizer(cue, add_special_tokens=False)["input_ids"]
        words, found = self.words(classes), []
        for word in words:
            both = tokenizer(f"{cue}{blank}{word}", add_special_tokens=False)["input_ids"]
            rest = both[len(before) :] if both[: len(before)] == before else []
            size = next((place for place, token in enumerate(rest, 1) if tokenizer.decode([token]).strip()), 0)
            if not size or rest[size - 1] == tokenizer.unk_token_id:
                raise DataError(f"the tokenizer has no token for {word!r}", "give another word", "verbalizer")
            found.append(tuple(rest[:size]))
        for place, tokens in enumerate(found):
            other = next(i for i, one in enumerate(found) if one[-1] == tokens[-1])
            if other < place:
                raise DataError(
                    f"the classes {classes[other]!r} and {classes[place]!r} begin with the same token "
                    f"({words[other]!r} and {words[place]!r} after a blank)",
                    "give words that differ",
                    "verbalizer",
                )
        return tuple(found)

    def choices(self, classes: Sequence[str], tokenizer: Any) -> tuple[int, ...]:
        return tuple(tokens[-1] for tokens in self.answers(classes, tokenizer)) if classes else ()

    def predict(self, logits: Float[np.ndarray, "row output"], classes: tuple[str, ...]) -> Predictions:
        """The class whose token is the likeliest of all classes', and the shares of these alone."""
        likely, chosen = likelihoods(logits), self._as_classes().predict(logits[:, LIKELIHOOD:], classes)
        return replace(chosen, kinds={**likely.kinds, **chosen.kinds})

    def written(self, labels: Sequence[Any], classes: Sequence[str]) -> Sequence[Written]:
        return self._as_classes().written(labels, classes)

    def _joins_directly(self, parts: Sequence[tuple[str, bool]]) -> bool:
        """Whether the template names the place of the label without a blank before it."""
        last, is_field = parts[-1]
        return "{label}" in (self.template or "") and not is_field and not last.endswith(" ")

    def examples(self, data: TextData, tokenizer: Any, max_length: int) -> Iterator[Example]:
        encoder, parts = Encoder(tokenizer), self._parts()
        answers = self.answers(data.info.classes, tokenizer) if data.info.classes else ((),)
        blank = answers[0][:-1]  # where it is a token of its own, the class is told behind it
        if not parts[-1][1]:
            parts[-1] = (parts[-1][0].rstrip(" "), False)
        for place, texts in enumerate(data.texts):
            made = filled(parts, dict(zip(("text", "pair"), texts, strict=False)))
            tokens = encoder(encoder.pieces(made.parts))
            answer = blank if data.labels is None else answers[data.labels[place]]
            ids = [*encoder.beginning, *tokens.ids, *answer]
            gone = self._gone(tokens.spans, made.fields, len(ids) - max_length)
            first = len(encoder.beginning)
            kept = [i for i in range(len(ids)) if i - first not in gone]
            rows = (data.rows[place],)
            if len(kept) > max_length:
                why = f"the prompt without its text has no room in {max_length} tokens"
                yield Example(rows, tuple(ids[:max_length]), (False,) * max_length, len(ids) - max_length, why)
                continue
            learned = [data.labels is not None and i == len(ids) - 1 for i in kept]
            one = shortened(rows, [ids[i] for i in kept], learned, max_length, "end", "no label")
            left_out = one.left_out if data.labels is not None else None  # there it is asked, and nothing learned
            yield Example(rows, one.ids, one.learned, len(ids) - len(kept), left_out)

    def _gone(self, spans: Sequence[tuple[int, int]], fields: Any, count: int) -> set[int]:
        """The tokens of the texts that are cut away, from the longer text first."""
        inside = [
            [i for i, (first, last) in enumerate(spans) if first >= low and last <= high]
            for low, high in fields.values()
        ]
        gone: set[int] = set()
        while len(inside) == 2 and count > 0 and len(inside[0]) != len(inside[1]):
            longer = max(inside, key=len)
            take = min(count, abs(len(inside[0]) - len(inside[1])))
            lost = without(longer, take, self.cut)
            gone |= lost
            longer[:] = [i for i in longer if i not in lost]
            count -= take
        for part, share in zip(inside, _shares(count, len(inside)), strict=True):
            gone |= without(part, share, self.cut)
        return gone


def _shares(count: int, parts: int) -> list[int]:
    """A number of tokens as evenly as it goes over some texts."""
    return [max(0, count) // parts + (place < max(0, count) % parts) for place in range(parts)]
