"""The stand-in for CoreNLP's words, against what CoreNLP 3.4.1 gave and, where Java is here, against CoreNLP."""

import random
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.e2e import HYPOTHESES, PENN_HYPOTHESES, PENN_REFERENCES, REFERENCES
from wheretune.metrics.text.penn import DROPPED, penn_words


def test_the_official_words():
    assert [" ".join(penn_words(one)) for one in HYPOTHESES] == PENN_HYPOTHESES
    found = [tuple(" ".join(penn_words(one)) for one in references) for references in REFERENCES]
    assert found == PENN_REFERENCES


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Cotto's isn't cheap; they've 5/5, you'd say.", "cotto 's is n't cheap they 've 5/5 you 'd say"),
        ("It’s “good” and don’t cost £20-£25!!", "it 's good and do n't cost # 20 # 25 !!"),
        ("(Near) [the] {pub}", "-lrb- near -rrb- -lsb- the -rsb- -lcb- pub -rcb-"),
        ("You cannot. I'm gonna go, 'twas fun", "you can not i 'm gon na go 't was fun"),
        ("St. John's, e.g. at 10:30 p.m. or 1,000.50", "st. john 's e.g. at 10:30 p.m. or 1,000.50"),
        ("by the riverside.It is kid-friendly – or not… 50% of B&B",
         "by the riverside.it is kid-friendly or not 50 % of b&b"),
        ("and/or one-of-a-kind O'Brien d'oeuvres, rock 'n' roll",
         "and/or one-of-a-kind o'brien d'oeuvres rock 'n' roll"),
        ("See www.abc.com or mail a@b.com :)", "see www.abc.com or mail a@b.com :-rrb-"),
        ("(555) 123-4567 is 1/2", "-lrb-555-rrb-\N{NO-BREAK SPACE}123-4567 is 1/2"),
        ("", ""),
        (" \n .,;: ", ""),
    ],
)  # fmt: skip
def test_words_that_corenlp_gave(text, words):
    assert penn_words(text) == words.split(" ") if words else penn_words(text) == []


@given(st.text())
def test_any_text_has_words_without_spaces(text):
    assert all(word and " " not in word and "\n" not in word and word not in DROPPED for word in penn_words(text))


PACKAGE = find_spec("pycocoevalcap")
PARTS = [
    "the", "Mill", "pub", "£20-25", "it's", "isn't", "5/5", "(", ")", "...", "-", "5-star", "St.", "e.g.", '"good"',
    "parents'", "10:30", "p.m.", "&", "%", "kid-friendly,", "and/or", "I'd", "cannot", "“", "”", "riverside.It",
    "$5.99", "café", "!!", "?", ";", "1st", "I.", "U.S.", "Mr.", "No. 1", "3.5", "'90s", "A+", "C++", "D'Angelo", "'n'",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(PACKAGE is None or shutil.which("java") is None, reason="needs Java and pycocoevalcap")
def test_corenlp_itself_divides_likewise(tmp_path):
    generator = random.Random(3)
    texts = [" ".join(generator.choices(PARTS, k=9)) + " at the end" for _ in range(2000)]
    (tmp_path / "texts").write_text("\n".join(texts) + "\n", encoding="utf-8")
    jar = Path(PACKAGE.submodule_search_locations[0]) / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    program = ["java", "-Dfile.encoding=UTF-8", "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer"]
    command = [*program, "-preserveLines", "-lowerCase", tmp_path / "texts"]
    said = subprocess.run(command, capture_output=True, encoding="utf-8").stdout
    expected = [[word for word in line.split(" ") if word not in DROPPED] for line in said.split("\n")[:-1]]
    assert len(expected) == len(texts)
    differing = [text for text, words in zip(texts, expected, strict=True) if penn_words(text) != words]
    assert len(differing) <= 10, differing
