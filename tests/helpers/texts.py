"""Texts and rows made of words that the tiny tokenizers know."""

import json

import torch

from helpers.models import WORDS


def sentences(n: int, seed: int = 0, longest: int = 20) -> list[str]:
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    return [" ".join(WORDS[draw(len(WORDS))] for _ in range(1 + draw(longest))) for _ in range(n)]


def classes_of(n: int) -> list[str]:
    """A label for each of `sentences(n)`, both words that the tiny tokenizers know."""
    return [("good", "bad")[i % 2] for i in range(n)]


def rows_of(n, seed=0, regression=False, pair=False):
    """Texts whose label can be learned: whether a word is in it."""
    rows = []
    for i, text in enumerate(sentences(n, seed)):
        word = "good" if i % 2 else "bad"
        label = (2.5 + (i % 2)) if regression else word
        rows.append({"text": f"{text} {word}", "label": label} | ({"other": text[::-1] or "a"} if pair else {}))
    return rows


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
