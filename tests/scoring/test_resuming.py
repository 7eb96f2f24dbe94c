"""A pass that is interrupted goes on, and ends in the scores of one that was not, to the last bit."""

import json
import logging
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from transformers import AutoModelForCausalLM

import wheretune as wt
from helpers.interrupted import Clock, Interrupted
from helpers.models import tiny_model
from helpers.scoring import gather_all, opened_of
from helpers.texts import classes_of, jsonl, rows_of, sentences
from wheretune import catalog
from wheretune.records.scores import Reading
from wheretune.scoring.confidence import Settler
from wheretune.scoring.gathered import finish, merge
from wheretune.scoring.reading import START, Texts
from wheretune.scoring.resuming import Keep, kept_beside

EVERY = [made() for made in catalog.every("scorer").values() if "training" not in made.card.needs]
EVERY += [wt.CKA("debiased"), wt.Fisher("batch")]
READS_ALL_TOKENS = ("io-cosine",)
SOURCES = [path for path in sys.path if path.endswith(("src", "tests"))]


def same(one, other):
    """The scores of two passes without what may differ."""
    return [replace(scores, seconds=0.0) for scores in finish(one)] == [
        replace(scores, seconds=0.0) for scores in finish(other)
    ]


def settler(bound, confidence=0.95):
    return Settler(wt.Highest(1), confidence=confidence, bound=bound).watch


CASES = {
    "states and gradients": (EVERY, {}),
    "standardised": ([one for one in EVERY if one.name not in READS_ALL_TOKENS], {"standardise": True}),
    "settled": ([wt.CosineCentrality()], {"settle": settler("asymptotic")}),
    "betting": ([wt.CosineCentrality()], {"settle": settler("betting")}),
    "some": ([wt.CosineCentrality()], {"most": 30, "seed": 3}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_pass_that_is_interrupted_again_and_again_ends_in_the_same_scores(tmp_path, caplog, name):
    model, tokenizer = tiny_model("llama", kind=AutoModelForCausalLM)
    data = wt.from_texts(sentences(36), classes_of(36))
    scorers, settings = CASES[name]
    once = gather_all(model, tokenizer, data, scorers, batch_size=4, **settings)
    path, times = tmp_path / "kept.safetensors", 0
    while True:
        try:
            state = gather_all(
                model, tokenizer, data, scorers, batch_size=4, keep=Keep(path, 0.0, Clock(3)), **settings
            )
            break
        except Interrupted:
            times += 1
    phases = 1 + ("standardise" in settings) + any(isinstance(one, wt.Fisher) for one in scorers)
    assert times == phases * once.n_samples // 4 // 3 - (phases * once.n_samples // 4 % 3 == 0)
    assert same(state, once) and state.settlement == once.settlement and state.seconds > once.seconds / 100
    assert caplog.text.count("the pass goes on after") == times


def test_a_shard_goes_on_too(tmp_path):
    model, tokenizer = tiny_model("bert")
    data = wt.from_texts(sentences(40))
    scorers = [wt.CosineCentrality(), wt.CKA()]
    asked = [dict(batch_size=4, shard=(number, 2)) for number in (1, 2)]
    once = merge([gather_all(model, tokenizer, data, scorers, **one) for one in asked])
    parts = []
    for number, one in enumerate(asked):
        keep = Keep(tmp_path / f"{number}.safetensors", 0.0, Clock(2))
        with pytest.raises(Interrupted):
            gather_all(model, tokenizer, data, scorers, keep=keep, **one)
        parts.append(gather_all(model, tokenizer, data, scorers, keep=replace(keep, clock=Clock(99)), **one))
    assert same(merge(parts), once)


@pytest.mark.parametrize("shard", [(1, 1), (1, 2), (2, 2), (3, 3)])
def test_what_is_left_after_a_place_is_the_end_of_the_pass(shard):
    model, tokenizer = tiny_model("bert")
    data = wt.from_texts(sentences(50))
    made = Texts.of(opened_of(model, tokenizer), data, Reading(batch_size=3), shard, settling=False)
    made.chunk = 2  # 8 chunks of 6 texts, and one of 2
    places, batches = [START], []
    for batch in made.batches():
        places.append(made.place)
        batches.append(batch)
    for read, place in enumerate(places):
        assert list(made.batches(place)) == batches[read:] and made.place == places[-1]
    before = made.encode
    made.encode = lambda texts: encoded.append(len(texts)) or before(texts)
    encoded = []
    list(made.batches(places[-1]))
    assert sum(encoded) <= 6 * shard[1] + 2  # what was read is not tokenised again, but for the chunks dealt out


OTHERS = {
    "data": dict(texts=sentences(36, 5)),
    "model": dict(seed=1),
    "how the data is read": dict(batch_size=6),
    "scorers": dict(scorers=[wt.EuclideanCentrality()]),
    "when its choice is settled": dict(settle=settler("asymptotic", 0.9)),
    "shard": dict(shard=(1, 2), settle=None),
    "not what a pass wrote": {},
    "no unfinished pass": {},
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_pass_starts_over_and_says_so(tmp_path, caplog, what):
    def gathered(texts=None, seed=0, scorers=None, **settings):
        model, tokenizer = tiny_model("bert", seed=seed)
        texts, scorers = texts or sentences(36), scorers or [wt.CosineCentrality()]
        settings = {"batch_size": 4, "settle": settler("asymptotic")} | settings
        return gather_all(model, tokenizer, wt.from_texts(texts), scorers, **settings)

    path = tmp_path / "kept.safetensors"
    with pytest.raises(Interrupted):
        gathered(keep=Keep(path, 0.0, Clock(4)))
    if what == "no unfinished pass":
        path.write_bytes(b"torn")
    elif what == "not what a pass wrote":
        path.write_bytes(path.read_bytes().replace(b'\\"phase\\": \\"scoring', b'\\"phase\\": \\"xcoring'))
    with caplog.at_level(logging.WARNING):
        state = gathered(keep=Keep(path), **OTHERS[what])
    assert "the pass starts over" in caplog.text and what in caplog.text
    assert same(state, gathered(**OTHERS[what]))


def test_it_is_written_by_time(tmp_path):
    model, tokenizer = tiny_model("bert")
    path, now = tmp_path / "kept.safetensors", [0.0]
    written = []

    def clock():
        written.append(path.is_file())
        now[0] += 5.0
        return now[0]

    gather_all(model, tokenizer, wt.from_texts(sentences(32)), [wt.Depth(), wt.IOCosine()], batch_size=4,
               keep=Keep(path, 30.0, clock))  # fmt: skip
    assert written.index(True) == 8  # begun, six batches later, and before and after writing
    now[0], written[:] = 0.0, []
    path.unlink()
    gather_all(model, tokenizer, wt.from_texts(sentences(16)), [wt.IOCosine()], batch_size=4,
               keep=Keep(path, 30.0, clock))  # fmt: skip
    assert not path.exists()


def test_where_nothing_can_be_kept_the_pass_goes_on_without(tmp_path, caplog):
    model, tokenizer = tiny_model("bert")
    data = wt.from_texts(sentences(16))
    (tmp_path / "file").touch()
    keep = Keep(tmp_path / "file" / "kept.safetensors", 0.0, Clock(99))
    state = gather_all(model, tokenizer, data, [wt.CosineCentrality()], batch_size=4, keep=keep)
    assert caplog.text.count("is not kept") == 1
    assert same(state, gather_all(model, tokenizer, data, [wt.CosineCentrality()], batch_size=4))


KILLED = """
import os, signal, sys
from pathlib import Path
from helpers.interrupted import Clock
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.scores import Reading
from wheretune.scoring.resuming import Keep
from wheretune.pipeline import score

model, train, kept = sys.argv[1:]
keep = Keep(Path(kept), 0.0, Clock(9, lambda: os.kill(os.getpid(), signal.SIGKILL)))
score(ModelSpec(model), DataSpec(train), [Spec("cka"), Spec("gradient-norm")], Reading(batch_size=8), keep=keep)
"""


@pytest.mark.slow
def test_killed_at_nine_tenths_the_command_goes_on_there(run, tiny_folder, tmp_path):
    train = jsonl(tmp_path / "train.jsonl", rows_of(40))  # five batches of states, and five of gradients
    model, kept = tiny_folder("bert"), tmp_path / "scores-unfinished.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {SOURCES}\n{KILLED}", str(model), str(train), str(kept)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL and kept.is_file(), done.stderr
    command = ["score", "--model", model, "--train", train, "--scorer", "cka,gradient-norm", "--batch-size", 8]
    code, _, err = run(*command, "--output", tmp_path / "scores.json")
    assert code == 0 and "the pass goes on after 32 texts" in err.replace("\n", " "), err
    assert {path.name for path in tmp_path.iterdir()} == {"train.jsonl", "scores.json"}
    assert run(*command, "--output", tmp_path / "once.json")[0] == 0
    assert told(tmp_path / "scores.json") == told(tmp_path / "once.json")


def told(path):
    """The text of a file of scores without what may differ."""
    content = json.loads(path.read_text())
    for one in content["scores"]:
        del one["seconds"]
    return json.dumps(content)


def test_no_file_is_left_beside_a_device():
    from pathlib import Path

    with kept_beside(Path("/dev/null")) as keep:
        assert keep is None
