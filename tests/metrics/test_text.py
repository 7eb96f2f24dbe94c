"""Metrics of texts against the official scorer's figures, against other libraries and against slow twins."""

import math
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.e2e import EDGES, GOLDEN, HYPOTHESES, REFERENCES, ROUGE_SEGMENTS, SETS, score
from reference import texts as twins
from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.metrics.text.exact import number_of
from wheretune.metrics.text.nist import nist, reference_counts
from wheretune.metrics.text.penn import penn_words
from wheretune.metrics.text.rouge_l import rouge_l
from wheretune.metrics.text.words import mteval_words

TWINS = {
    "bleu": (twins.bleu, mteval_words),
    "nist": (twins.nist, mteval_words),
    "rouge-l": (twins.rouge_l, penn_words),
    "cider": (twins.cider, penn_words),
}
WORDS = [
    "a",
    "pub",
    "The",
    "it's",
    "isn't",
    "£20-25",
    "5",
    ".",
    ",",
    "(",
    "near",
    "near",
    "&amp;",
    "-",
    "",
    "riverside",
]
LINES = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
ROWS = st.lists(st.tuples(LINES, st.lists(LINES, min_size=1, max_size=3)), min_size=1, max_size=4)
WILD = st.lists(st.tuples(st.text(max_size=30), st.lists(st.text(max_size=30), min_size=1, max_size=3)), min_size=1,
                max_size=4)  # fmt: skip


@pytest.mark.parametrize("which", GOLDEN)
@pytest.mark.parametrize("name", TWINS)
def test_the_official_figures(name, which):
    assert score(name, *SETS[which]) == pytest.approx(GOLDEN[which][name], abs=1e-12)


@pytest.mark.parametrize(("output", "reference", "bleu", "nist"), EDGES)
def test_official_edges(output, reference, bleu, nist):
    assert score("bleu", [output], [[reference]]) == pytest.approx(bleu, abs=1e-12)
    found = score("nist", [output], [[reference]])
    assert found == pytest.approx(nist, abs=1e-12) if nist is not None else 0 < found < 1


def test_segments_of_rouge():
    rows = zip(HYPOTHESES, REFERENCES, strict=True)
    found = [rouge_l(penn_words(one), [penn_words(r) for r in references]) for one, references in rows]
    assert found == pytest.approx(ROUGE_SEGMENTS, abs=1e-12)
    assert found[3] == pytest.approx(2.44 * (5 / 23) / (5 / 23 + 1.44))  # by hand: LCS 5, P 1, R 5/23


@pytest.mark.parametrize("name", TWINS)
@given(rows=ROWS)
@settings(deadline=None, max_examples=60)
def test_slow_twins_agree(name, rows):
    twin, words = TWINS[name]
    expected = twin([(words(one), [words(r) for r in references]) for one, references in rows])
    if expected <= 1 + 1e-9 or name != "bleu":
        assert score(name, *zip(*rows, strict=True)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    else:
        assert score(name, *zip(*rows, strict=True)) == 0


@given(rows=st.lists(st.tuples(LINES, st.lists(LINES, min_size=1, max_size=3)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_bleu_is_sacrebleu_where_no_output_is_short_and_every_order_hits(rows):
    from_library = pytest.importorskip("sacrebleu").BLEU(lowercase=True, smooth_method="none")
    rows = [(f"{one} this is a pub", [f"{r} this is a pub" for r in references]) for one, references in rows]
    most = max(len(references) for _, references in rows)
    streams = [[r[i] if i < len(r) else None for _, r in rows] for i in range(most)]
    expected = from_library.corpus_score([one for one, _ in rows], streams).score / 100
    assert score("bleu", *zip(*rows, strict=True)) == pytest.approx(expected, abs=1e-9)


def test_nist_with_one_reference_is_that_of_nltk():
    corpus_nist = pytest.importorskip("nltk.translate.nist_score").corpus_nist
    references = [[mteval_words(one[0])] for one in REFERENCES]
    expected = corpus_nist(references, [mteval_words(one) for one in HYPOTHESES])
    assert score("nist", *SETS["first"]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", [*TWINS, "exact-match"])
@given(rows=WILD)
@settings(deadline=None, max_examples=80)
def test_any_text_has_a_finite_score(name, rows):
    found = score(name, *zip(*rows, strict=True))
    assert math.isfinite(found) and 0 <= found <= {"nist": 100, "cider": 10 + 1e-9}.get(name, 1)


@pytest.mark.parametrize("name", ["rouge-l", "cider", "exact-match"])
@given(rows=ROWS, place=st.integers(0, 3), empty=st.sampled_from(["", " ", "\n"]))
@settings(deadline=None, max_examples=60)
def test_to_say_nothing_never_raises_a_mean(name, rows, place, empty):
    outputs, references = map(list, zip(*rows, strict=True))
    before = score(name, outputs, references)
    outputs[place % len(outputs)] = empty
    assert score(name, outputs, references) <= before + 1e-12


@given(rows=ROWS, references=st.lists(LINES, min_size=1, max_size=3), empty=st.sampled_from(["", " ", "<skipped>"]))
@settings(deadline=None, max_examples=100)
def test_a_row_that_says_nothing_never_raises_what_the_others_have(rows, references, empty):
    outputs, others = map(list, zip(*rows, strict=True))
    with mock.patch("wheretune.metrics.text.bleu.log") as log:
        before, after = score("bleu", outputs, others), score("bleu", [*outputs, empty], [*others, references])
    assert after <= before + 1e-12 or log.warning.called  # by the formula above 1 before, and so given as 0
    divided = [(mteval_words(one), [mteval_words(r) for r in rs]) for one, rs in [*rows, (empty, references)]]
    counts = reference_counts(rs for _, rs in divided)  # of all references, so that only the output is at stake
    assert nist(divided, counts) <= nist(divided[:-1], counts) + 1e-12


def test_nothing_but_empty_outputs_is_0_and_bleu_is_never_above_1(caplog):
    for name in (*TWINS, "exact-match"):
        assert score(name, [""] * 5, REFERENCES) == 0
    whole = "a long line of words that is right"
    assert 0 < score("bleu", [whole, *[""] * 5], [[whole]] * 6) < 0.01 and not caplog.records
    assert score("bleu", [whole, *["a"] * 5], [[whole], *[["a"]] * 5]) == 0  # by the formula far above 1
    assert "bleu is 0" in caplog.text


def test_references_are_not_made_one():
    twice = [[*references, references[0]] for references in REFERENCES]
    assert score("cider", HYPOTHESES, twice) != pytest.approx(GOLDEN["all"]["cider"])


# --- exact match ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"), ("#### $70,000\nNext: #### 3", "70000"),
        ("It is $1,234.50.", "1234.5"), ("The answer is 3.", "3"), ("18.0", "18"), ("minus 5: -5", "-5"), ("−7", "-7"),
        ("10-5=5", "5"), ("20-25", "25"), ("1,2,3", "3"), ("####\nso it is 4", "4"), (".5", "0.5"), ("-$5", "-5"),
        ("#### **42** eggs, not 43", "42"), ("12,000,000 people", "12000000"), ("50%", "50"), ("x=-5", "-5"),
    ],
)  # fmt: skip
def test_the_number_of_an_answer(text, number):
    assert number_of(text) == number_of(number) != number_of("99")
    assert score("exact-match", [text], [[f"worked out 1 2 3\n#### {number}"]]) == 1
    assert score("exact-match", [text], [[number]]) == 1
    assert score("exact-match", [text], [["#### 99"]]) == 0


@pytest.mark.parametrize("text", ["", "no number", "####", "eighteen", "##### ."])
def test_no_number_is_wrong(text):
    assert number_of(text) is None
    assert score("exact-match", [text], [["#### 18"]]) == score("exact-match", [text], [["#### none"]]) == 0


def test_exact_match_of_texts():
    assert (
        score("exact-match", [" Paris\n", "paris", "Rome", ""], [["Paris"], ["Paris"], ["Roma", "Rome"], ["x"]]) == 0.5
    )
    assert score("exact-match", ["room 101", "101"], [["room 101"], ["room 101"]]) == 0.5
    assert score("exact-match", ["It is 18.", "18"], [["18"], ["18"]]) == 1
    assert score("exact-match", ["It is 18.", "18"], [["18"], ["18"]], of="text") == 0.5
    assert score("exact-match", ["It is 18.", "eighteen"], [["18 eggs"]] * 2, of="number") == 0.5
    with pytest.raises(ConfigError, match="of='words'; give auto or number or text"):
        catalog.read("metric", "exact-match:of=words")
