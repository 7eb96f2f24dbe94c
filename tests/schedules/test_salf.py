"""SALF with budgets: S table 5, who goes into which stage, and a run in which no batch mixes stages."""

import json

import numpy as np
import pytest

import wheretune as wt
from helpers import made_up
from helpers.commands import one_line
from helpers.interrupted import Clock, Interrupted
from helpers.models import tiny_model
from helpers.often import often
from helpers.texts import jsonl, rows_of
from helpers.training import Watch, fresh
from wheretune import catalog, planning, scheduling
from wheretune.data.samplers import Arranged
from wheretune.errors import ConfigError
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe, tensor_hashes
from wheretune.ordering import Rescan
from wheretune.pipeline import tune
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.plan import load_plan
from wheretune.records.runs import RunSpec, TrainSettings, WatchSettings, load_result
from wheretune.records.scores import Reading
from wheretune.schedules.salf import Salf
from wheretune.schedules.timetable import timetable
from wheretune.scoring import resuming
from wheretune.scoring.resuming import Keep
from wheretune.tasks.loading import load_data
from wheretune.training.loop import train

ONCE = TrainSettings(epochs=1, learning_rate=1e-2)
TEXTS = (16000, 4076, 8544, 5452, 10060)
TABLE_5 = {  # S, Llama3-8B with its 32 layers
    ("half", "breadth-first"): (0.484, 0.483, 0.484, 0.484, 0.484),
    ("half", "depth-first"): (0.484, 0.483, 0.484, 0.484, 0.484),
    ("geometric", "breadth-first"): (0.374, 0.312, 0.346, 0.328, 0.355),
    ("geometric", "depth-first"): (0.616, 0.583, 0.601, 0.589, 0.604),
}
ARITHMETIC = {"breadth-first": (0.614, 0.613, 0.613, 0.609, 0.615), "depth-first": (0.644, 0.640, 0.644, 0.642, 0.645)}


def saved(amounts):
    return sum(stage * amount for stage, amount in enumerate(amounts)) / len(amounts) / sum(amounts)


@pytest.mark.parametrize(("plan", "printed"), TABLE_5.items(), ids=lambda value: str(value)[:40])
def test_the_cost_saving_is_what_the_paper_prints(plan, printed):
    found = [saved(Salf(*plan).amounts(count, 32)) for count in TEXTS]
    assert found == pytest.approx(printed, abs=6e-4)


@pytest.mark.parametrize(("fill", "printed"), ARITHMETIC.items())
def test_the_arithmetic_rows_come_near(fill, printed):
    """The paper's way of rounding is not said."""
    assert [saved(Salf("arithmetic", fill).amounts(count, 32)) for count in TEXTS] == pytest.approx(printed, abs=0.03)


@pytest.mark.parametrize("fill", ["breadth-first", "depth-first"])
@pytest.mark.parametrize("budget", ["half", "geometric", "arithmetic"])
@pytest.mark.parametrize(("count", "stages"), [(1, 4), (7, 4), (15, 4), (16, 4), (100, 3), (5, 1)])
def test_every_sample_is_in_one_stage(budget, fill, count, stages):
    amounts = Salf(budget, fill).amounts(count, stages)
    assert sum(amounts) == count and len(amounts) == stages and min(amounts) >= 0
    eof = np.random.default_rng(count).integers(0, 12, count).tolist()
    rows = Salf(budget, fill).stages(eof, list(range(stages)), 3)
    assert [len(stage) for stage in rows] == amounts
    assert sorted(row for stage in rows for row in stage) == list(range(count))


def test_figure_4_of_the_paper():
    """Four layers, budgets 1, 2, 4, 8; eight samples."""
    assert Salf("geometric", "breadth-first").amounts(8, 4) == [1, 2, 4, 1]
    assert Salf("geometric", "depth-first").amounts(8, 4) == [1, 2, 3, 2]
    assert Salf("arithmetic", "breadth-first").amounts(10, 4) == [1, 2, 3, 4]
    assert Salf("half").amounts(10, 4) == [3, 3, 2, 2]


def test_algorithm_4_by_hand():
    """A twin that walks through the data as the algorithm does."""
    rng = np.random.default_rng(5)
    eof = rng.integers(1, 4, 40).tolist()
    made = Salf("half")
    budgets, tabu, expected = made.amounts(40, 4), set(), []
    for layer in range(4):
        matching = []
        for datum in range(40):
            if len(matching) == budgets[layer]:
                break
            if datum not in tabu and eof[datum] <= layer:
                matching.append(datum)
        tabu |= set(matching)
        expected.append(matching)
        rest = made.stages(eof, (0, 1, 2, 3), 9)[layer]
        assert set(matching) <= set(rest) and not set(rest) & (tabu - set(matching))
        tabu |= set(rest)
    assert any(len(matching) < 10 for matching in expected), "some are drawn at random"
    assert made.stages(eof, (0, 1, 2, 3), 9) == made.stages(eof, (0, 1, 2, 3), 9) != made.stages(eof, (0, 1, 2, 3), 8)


def test_stages_end_where_the_rows_do_or_take_shares_of_the_steps():
    spans = timetable(Salf(ends=(2, 2, 5)), 8, (1, 4, 6), 5)
    assert [(span.first, span.last, span.units) for span in spans] == [(0, 1, (1, 4, 6)), (2, 4, (6,))]
    assert [span.steps for span in timetable(Salf(), 8, (1, 4, 6), 8)] == [3, 3, 2]
    assert Salf("geometric").expected(2) == pytest.approx((0.3334, 1.0))


@pytest.fixture
def words(tmp_path):
    return jsonl(tmp_path / "train.jsonl", rows_of(26))


def test_a_run_reads_every_row_once_and_no_batch_mixes_stages(run, tiny_folder, words, tmp_path):
    model = tiny_folder("gpt2")
    given = ("tune", "--model", model, "--train", words, "--epochs", 1, "--batch-size", 4, "--learning-rate", "1e-2")
    salf = ("--schedule", "salf:budget=half", "--tuner", "lora:r=2", "--output", tmp_path / "run", "--json")
    code, _, err = run(*given, *salf)
    assert code == 0, err
    result = load_result(tmp_path / "run" / "result.json")
    assert result.steps == 2 + 2 + 2 + 2, "26 rows in stages of 7, 7, 6 and 6, each in batches of its own"
    plan = load_plan(tmp_path / "run" / "plan.json")
    assert plan.layers == (0, 1, 2, 3) and plan.schedule.params["ends"] == ()
    kept = json.loads((tmp_path / "run" / "eof-layers.json").read_text())["eof_layers"]
    assert len(kept) == 26 and set(kept) <= set(range(4))
    # the layer of the largest gain, text by text, is that of scores of the text alone
    from transformers import AutoModelForCausalLM, AutoTokenizer

    language, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    scores = wt.score(language, tokenizer, wt.load_data(words), wt.SemanticDeviation())
    assert list(scores.deviations.eof_layers) == np.bincount(kept, minlength=4).tolist()


@pytest.mark.slow
def test_a_pass_for_the_order_that_is_interrupted_goes_on(tiny_folder, words, tmp_path, caplog, monkeypatch):
    spec = RunSpec(ModelSpec(tiny_folder("gpt2")), DataSpec(str(words)), schedule=Spec("salf"), settings=ONCE,
                   selector=Spec("explicit", {"every": True}), reading=Reading(batch_size=4))  # fmt: skip
    tune(spec, tmp_path / "once")
    monkeypatch.setattr(resuming, "Keep", lambda path: Keep(path, 0.0, Clock(3)))
    with pytest.raises(Interrupted):
        tune(spec, tmp_path / "run")
    assert not (tmp_path / "run" / "eof-layers.json").exists()
    monkeypatch.undo()
    tune(spec, tmp_path / "run")
    assert "the pass goes on after 12 texts" in caplog.text
    once, run = (json.loads((tmp_path / name / "eof-layers.json").read_text()) for name in ("once", "run"))
    assert once["eof_layers"] == run["eof_layers"]
    assert not list((tmp_path / "run").glob("*unfinished*"))


@pytest.mark.slow
def test_some_of_the_rows_are_ordered_by_their_own_layers(run, tiny_folder, words, tmp_path):
    """Rows that are drawn from a file have the numbers of the file."""
    given = ("tune", "--model", tiny_folder("gpt2"), "--train", words, "--max-samples", 14, "--schedule", "salf")
    code, _, err = run(*given, "--epochs", 1, "--batch-size", 4, "--output", tmp_path / "some", "--json")
    assert code == 0, err
    assert run(*given[:-4], *given[-2:], "--epochs", 1, "--output", tmp_path / "all", "--json")[0] == 0
    some, every = (
        json.loads((tmp_path / name / "eof-layers.json").read_text())["eof_layers"] for name in ("some", "all")
    )
    drawn = load_data(wt.DataSpec(str(words), max_samples=14)).rows
    assert max(drawn) > 14 and some == [every[row] for row in drawn]


def test_all_rows_are_looked_at_however_few_the_scores_are_made_of(run, tiny_folder, words, tmp_path):
    spec = RunSpec(
        ModelSpec(str(tiny_folder("gpt2"))), wt.DataSpec(str(words)), reading=Reading(most=5), settings=ONCE,
        schedule=Spec("salf"), selector=Spec("explicit", {"every": True}),
    )  # fmt: skip
    tune(spec, tmp_path / "run")
    assert len(json.loads((tmp_path / "run" / "eof-layers.json").read_text())["eof_layers"]) == 26


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--epochs", 3), "--epochs is 3, and the schedule salf reads every row once"),
        (("--epochs", 1, "--gradient-accumulation-steps", 2), "--gradient-accumulation-steps is 2"),
        (("--epochs", 1, "--tokens-per-batch", 200), "--tokens-per-batch is 200"),
    ],
)
def test_what_would_mix_stages_is_refused(run, tiny_folder, words, tmp_path, given, said):
    common = (
        "tune",
        "--model",
        tiny_folder("gpt2"),
        "--train",
        words,
        "--schedule",
        "salf",
        "--output",
        tmp_path / "r",
    )
    one_line(*run(*common, *given)[::2], said)


def test_an_encoder_is_refused(run, tiny_folder, words, tmp_path):
    common = ("tune", "--model", tiny_folder("bert"), "--train", words, "--schedule", "salf", "--epochs", 1)
    one_line(*run(*common, "--output", tmp_path / "r")[::2], "language model")


def test_it_is_read_by_its_name():
    assert catalog.read("schedule", "salf:budget=geometric:fill=breadth-first") == Salf("geometric", "breadth-first")


@pytest.mark.slow
def test_batches_come_as_arranged_and_a_stopped_run_goes_on_byte_for_byte(tmp_path):
    batches = [[3, 1], [7], [0, 2, 5], [4, 6], [8]]
    made, watch = Salf(ends=(1, 2, 4, 5)), WatchSettings(save_strategy="steps", save_steps=1)
    settings = TrainSettings(epochs=1, learning_rate=1e-2, batch_size=3, warmup_ratio=0.0, seed=3)

    def go_on(folder, stop=None):
        model, tuned, rows, collate = fresh(wt.WholeLayers(), (0, 1, 2, 3), made, texts=9)
        seen, layers = [], []

        def look(some):
            seen.append([rows.index(row) for row in some])
            return collate(some)

        class Flags(Watch):
            def before_step(self, step):
                layers.append(
                    {i for i in range(4) for p in tuned.stack.layers[i].module.parameters() if p.requires_grad}
                )

        followers = (*tuned.followers, Flags(stop))
        train(model, Arranged(rows, batches), look, settings, folder, followers=followers, watch=watch)
        return tensor_hashes(model.state_dict().items()), seen, layers

    once, seen, layers = go_on(tmp_path / "once")
    assert seen == batches and layers == [{0, 1, 2, 3}, {1, 2, 3}, {2, 3}, {2, 3}, {3}]
    with pytest.raises(KeyboardInterrupt):
        go_on(tmp_path / "twice", stop=2)
    again, _, layers = go_on(tmp_path / "twice")
    assert again == once and layers == [{2, 3}, {2, 3}, {3}]


@pytest.mark.slow
def test_rescan_looks_after_each_stage_and_a_stopped_run_goes_on_byte_for_byte(tmp_path):
    """What is found hangs on the weights, so a look that came a step too early or too late would show."""
    watch = WatchSettings(save_strategy="steps", save_steps=1)
    settings = TrainSettings(epochs=1, learning_rate=1e-2, batch_size=3, warmup_ratio=0.0, seed=3)

    def go_on(folder, stop=None):
        made = Salf("geometric", rescan=True)
        model, tuned, rows, collate = fresh(
            wt.WholeLayers(), (0, 1, 2, 3), Salf("geometric", ends=(1, 2, 4, 6)), texts=13
        )
        seen, looks, done = [], [], []

        def weight():
            return int(
                float(tuned.stack.layers[3].module.attention.output.dense.weight.detach().double().sum()) * 2**30
            )

        def look(places):
            looks.append((len(seen), weight(), tuple(places)))
            return [(weight() + place) % 4 for place in places]

        class After(Watch):
            def after_step(self, step):
                done.append(weight())
                super().after_step(step)

        late = Rescan(made, (0, 1, 2, 3), len(rows), settings.batch_size, settings.seed, look, tmp_path / "eof", 4)
        assert late.ends() == (1, 2, 4, 6) and len(late) == 6

        def read(some):
            seen.append([rows.index(row) for row in some])
            return collate(some)

        followers = (*tuned.followers, late, After(stop))
        train(model, Arranged(rows, late), read, settings, folder, followers=followers, watch=watch)
        return tensor_hashes(model.state_dict().items()), seen, looks, done

    once, seen, looks, done = go_on(tmp_path / "once")
    assert [at for at, *_ in looks] == [0, 1, 2, 4] and [found for _, found, _ in looks[1:]] == [
        done[0],
        done[1],
        done[3],
    ]
    assert len(set(done)) == 6 and sorted(row for batch in seen for row in batch) == list(range(13))
    read: set[int] = set()
    for number, (layer, (at, found, places)) in enumerate(zip(range(4), looks, strict=True)):
        assert places == tuple(row for row in range(13) if row not in read)
        stage = {row for batch in seen[at : (1, 2, 4, 6)[number]] for row in batch}
        fitting = [row for row in places if (found + row) % 4 <= layer]
        assert set(fitting[: len(stage)]) <= stage
        read |= stage
    for stop in (1, 2):  # killed in the step that begins a stage, and between two of one
        with pytest.raises(KeyboardInterrupt):
            go_on(tmp_path / f"stop-{stop}", stop=stop)
        again, rest, *_ = go_on(tmp_path / f"stop-{stop}")
        assert again == once and rest == seen[stop:]


@pytest.mark.parametrize(("rate", "same"), often([("1e-12", True), ("1e-1", False)], [("1e-1", False)]))
def test_a_run_with_rescan(run, tiny_folder, words, tmp_path, rate, same):
    """By a model that has hardly moved the same is found as before the training; by another not."""
    found = []
    for rescan in ("true", "false"):
        given = ("tune", "--model", tiny_folder("gpt2"), "--train", words, "--epochs", 1, "--batch-size", 4)
        salf = ("--schedule", f"salf:rescan={rescan}", "--learning-rate", rate, "--output", tmp_path / rescan, "--json")
        code, _, err = run(*given, *salf)
        assert code == 0 or rate == "1e-12", err
        found.append(json.loads((tmp_path / rescan / "eof-layers.json").read_text())["eof_layers"])
    assert (found[0] == found[1]) is same and min(found[0]) >= 0


def test_rescan_is_refused_where_nothing_could_look(run, tiny_folder, words, tmp_path):
    common = ("tune", "--model", tiny_folder("gpt2"), "--train", words, "--schedule", "salf:rescan=true", "--epochs", 1)
    one_line(*run(*common, "--output", tmp_path / "r", "--cache-prefix", "memory")[::2], "prefix cache runs none below")
    base, _ = tiny_model("gpt2")
    plan = planning.plan(describe(find_layers(base)), wt.Explicit(every=True), schedule=Salf(rescan=True))
    with pytest.raises(ConfigError, match="orders its rows itself"):
        wt.apply(base, plan)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (wt.Lift(), "0.358 of the backward pass"),
        (Salf("half"), "0.358 of the backward pass"),
        (Salf("geometric", ends=(1, 2, 3, 4)), "0.567 of the backward pass"),
    ],
)
def test_the_saving_is_printed_with_the_plan(schedule, words):
    plan = planning.plan(made_up.scores(), wt.Explicit(every=True), schedule=schedule)
    rows = Salf("geometric").amounts(30, 4)
    assert scheduling.backward_saved(planning.plan(made_up.scores(), wt.Top(1))) is None
    assert saved(rows) == pytest.approx(0.567, abs=0.001)
    assert words in plan._repr_html_() and "over 30 texts" in plan._repr_html_()
