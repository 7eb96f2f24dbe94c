"""How a language model writes: the settings, what refuses them, and what holds where nothing is said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

from wheretune.errors import ConfigError
from wheretune.records.base import record
from wheretune.records.data import check_seed
from wheretune.records.runs import at_least

MOST_NEW = 256  # new tokens where nobody says how many, and the model has positions for them
USUAL: Mapping[str, Any] = {  # Transformers' own
    "num_beams": 1, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0,
    "length_penalty": 1.0, "no_repeat_ngram_size": 0, "early_stopping": False,
}  # fmt: skip
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "e2e": {
        "max_new_tokens": 64, "num_beams": 10, "do_sample": False, "repetition_penalty": 1.0, "length_penalty": 0.8,
        "no_repeat_ngram_size": 4, "early_stopping": "never",
    },
}  # fmt: skip
OF_DRAWING, OF_BEAMS = ("temperature", "top_p", "top_k"), ("length_penalty", "early_stopping")


@record
class Decoding:
    """How a text is written, token by token; None leaves a setting to the preset, then to the checkpoint.

    The settings are Transformers'. Where nobody says anything, the likeliest token is taken.

    Attributes:
        max_new_tokens: Tokens that are written at most.
        num_beams: Beams that are searched.
        do_sample: Draw every token.
        temperature: What logits are divided by before a token is drawn.
        top_p: Draw among the likeliest tokens that have this probability together.
        top_k: Draw among so many of the likeliest tokens; 0 is all.
        repetition_penalty: What the logits of tokens that stand there already are divided by.
        length_penalty: A beam's score is the sum of its log probabilities by its length to this power.
        no_repeat_ngram_size: No n-gram of this size is written twice; 0 is none.
        early_stopping: Whether a search ends with as many finished beams as there are, or `never` before no better one
            can come.
        seed: Seed for drawing. Every row draws by itself, whatever else is in its batch.
        rules: `e2e` is LoRA's decoding of E2E: n-grams are looked for in what was written alone (Transformers looks in
            the prompt too, and so forbids names that are to be copied), a blank line ends a text, and blanks around a
            text are cut away. Decided: finished beams occupy no slots (theirs do, for a step).
    """

    max_new_tokens: int | None = None
    num_beams: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    early_stopping: bool | Literal["never"] | None = None
    seed: int = 0
    rules: Literal["e2e"] | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("num_beams", 1), ("top_k", 0), ("no_repeat_ngram_size", 0)):
            at_least(least, name, getattr(self, name))
        for name in ("temperature", "top_p", "repetition_penalty"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= (1 if name == "top_p" else 1e6):
                most = " and at most 1" if name == "top_p" else ""
                raise ConfigError(f"{name.replace('_', ' ')} is {value}", f"give a number above 0{most}", name)
        if self.length_penalty is not None and not math.isfinite(self.length_penalty):
            raise ConfigError(f"length penalty is {self.length_penalty}", "give a finite number", "length_penalty")
        check_seed(self.seed)
        if self.do_sample and self.rules is not None:
            raise ConfigError(f"{self.rules} searches and draws nothing", "leave one of them out (rules)", "do_sample")
        if self.do_sample and (self.num_beams or 1) > 1:
            raise ConfigError(
                "beams are searched, and draw nothing", "leave out one of the two (num_beams)", "do_sample"
            )

    def settled(self, checkpoint: Mapping[str, Any], room: int | None) -> Decoding:
        """The same with every setting that has an effect said, and the others None.

        Beams that are asked for outweigh a checkpoint that draws, and drawing one that searches.

        Args:
            checkpoint: What a model's own generation settings say.
            room: How many positions the longest prompt leaves; None where there is no limit.

        Raises:
            ConfigError: A setting was given that has no effect, or there is no room.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if (self.num_beams or 1) > 1:
            given.setdefault("do_sample", False)
        own = {name: checkpoint[name] for name in USUAL if checkpoint.get(name) is not None}
        most = checkpoint.get("max_new_tokens") or MOST_NEW
        own["max_new_tokens"] = most if room is None else max(1, min(most, room))
        found: dict[str, Any] = {**USUAL, **own, **PRESETS.get(self.rules or "", {}), **given}
        if found["do_sample"]:
            found["num_beams"] = 1
        _check_room(found["max_new_tokens"], room)
        for names, used, why, remedy in (
            (OF_DRAWING, found["do_sample"], "nothing is drawn", "draw (do_sample)"),
            (OF_BEAMS, found["num_beams"] > 1, "one beam is searched", "search several (num_beams)"),
        ):
            if not used:
                _refuse_idle(given, names, why, remedy)
                found |= dict.fromkeys(names)
        return replace(self, **found | ({} if found["do_sample"] else {"seed": 0}))


def _refuse_idle(given: Mapping[str, Any], names: tuple[str, ...], why: str, remedy: str) -> None:
    """Refuses settings that were given and have no effect.

    Raises:
        ConfigError: One was.
    """
    for name in names:
        if name in given:
            words = f"{name.replace('_', ' ')} is {given[name]}"
            raise ConfigError(f"{words}, which has no effect where {why}", f"leave it out, or {remedy}", name)


def _check_room(wanted: int, room: int | None) -> None:
    """Refuses more new tokens than the longest prompt leaves positions for.

    Raises:
        ConfigError: There are more.
    """
    if room is not None and wanted > room:
        raise ConfigError(
            f"the longest prompt leaves {max(0, room)} of the model's positions, and max_new_tokens is {wanted}",
            "ask for fewer, or cut the prompts (max_length)" if room > 0 else "cut the prompts (max_length)",
            "max_new_tokens",
        )
