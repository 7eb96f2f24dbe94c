"""A stream is scored as the rows themselves are, and what the pass does not need is not read."""

import gc
import json
import tracemalloc
from dataclasses import replace

import datasets
import pandas
import pytest
from datasets import ClassLabel, Dataset, IterableDataset

import wheretune as wt
from helpers.models import tiny_model
from helpers.often import often
from helpers.scoring import gather_all, opened_of, score_all
from helpers.texts import classes_of, jsonl, rows_of, sentences
from wheretune import DataSpec, load_data
from wheretune.errors import ConfigError, DataError
from wheretune.records.scores import Reading
from wheretune.scoring.confidence import Settler
from wheretune.scoring.gathered import finish
from wheretune.scoring.one_pass import gather
from wheretune.scoring.resuming import Keep
from wheretune.tasks.streaming import StreamedTexts

ROWS = [{"text": text, "label": label} for text, label in zip(sentences(150), classes_of(150), strict=True)]
SCORERS = [wt.CosineCentrality(), wt.CKA(), wt.GradientNorm()]


@pytest.fixture
def short(monkeypatch):
    """Knows the task by few rows, so that most come later."""
    monkeypatch.setattr("wheretune.tasks.streaming.FIRST", 20)


def counted(rows, seen):
    """An iterable data set that notes each row that is read."""

    def read():
        for row in rows:
            seen.append(row)
            yield row

    return IterableDataset.from_generator(read)


def values(every):
    return [(scores.layers, scores.n_samples, scores.tokens) for scores in every]


def written(folder, kind):
    path = folder / f"rows{kind}"
    if kind == ".csv":
        pandas.DataFrame(ROWS).to_csv(path, index=False)
    elif kind == ".parquet":
        Dataset.from_list(ROWS).cast_column(
            "label", ClassLabel(names=sorted({row["label"] for row in ROWS}))
        ).to_parquet(path)
    elif kind == "saved":
        Dataset.from_list(ROWS).save_to_disk(path)
    else:
        jsonl(path, ROWS)
    return str(path)


@pytest.mark.parametrize("kind", often([".jsonl", ".csv", ".parquet", "saved", "two files"], [".parquet"]))
def test_all_rows_in_their_order_score_as_they_do_without_a_stream(tmp_path, short, kind):
    if kind == "two files":
        source = f"{jsonl(tmp_path / 'a.jsonl', ROWS[:30])},{jsonl(tmp_path / 'b.jsonl', ROWS[30:])}"
    else:
        source = written(tmp_path, kind)
    model, tokenizer = tiny_model("bert")
    plain = score_all(model, tokenizer, load_data(source), SCORERS, batch_size=2)
    texts = StreamedTexts(DataSpec(source, streaming=0), {"labels", "gradients"})
    streamed = score_all(model, tokenizer, texts, SCORERS, batch_size=2)
    assert values(streamed) == values(plain)  # to the last bit: the batches are the same
    info = streamed[0].data
    assert info.stream.whole and info.stream.buffer == 0 and info.stream.source
    assert replace(info, stream=None, spec=replace(info.spec, streaming=None)) == plain[0].data  # the hash too
    again = score_all(model, tokenizer, texts, SCORERS[:1], batch_size=2, standardise=True)  # read twice more
    assert values(again) == values(
        score_all(model, tokenizer, load_data(source), SCORERS[:1], batch_size=2, standardise=True)
    )


def test_by_name_and_in_one_call(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", ROWS)
    model, tokenizer = tiny_model("bert")
    plain, streamed = wt.score(model, tokenizer, source), wt.score(model, tokenizer, DataSpec(source, streaming=0))
    assert streamed.layers == plain.layers and streamed.data.task == plain.data.task
    assert streamed.data.classes == plain.data.classes


@pytest.mark.parametrize(("streaming", "most"), [(0, None), (300, None), (300, 200)])
def test_what_a_settled_choice_does_not_need_is_never_read(short, streaming, most):
    model, tokenizer = tiny_model("bert")
    rows, seen = [{"text": f"{text} {i}"} for i, text in enumerate(sentences(40) * 250)], []
    texts = StreamedTexts(DataSpec("mine", streaming=streaming, max_samples=most), set(), counted(rows, seen))
    assert len(seen) <= streaming + 21  # the model has not been opened
    settle = Settler(wt.Highest(1), confidence=0.6, tolerance=1.0).watch
    scores = finish(gather_all(model, tokenizer, texts, [wt.CosineCentrality()], settle=settle, batch_size=4))[0]
    assert scores.settlement.settled and scores.settlement.texts is None and scores.n_samples == 64
    assert scores.data.rows == 64 and not scores.data.stream.whole
    assert len(seen) <= streaming + 64 + 1 < len(rows)


def test_without_a_choice_so_many_as_were_asked_for(short):
    model, tokenizer = tiny_model("bert")
    seen = []
    texts = StreamedTexts(DataSpec("mine", streaming=50, max_samples=70), set(), counted(ROWS * 3, seen))
    scores = score_all(model, tokenizer, texts, [wt.CosineCentrality()], batch_size=4)[0]
    assert scores.n_samples == scores.data.rows == 70 and not scores.data.stream.whole
    assert len(seen) <= 50 + 70 + 1 < 3 * len(ROWS)


def test_the_end_of_a_stream_is_looked_at():
    model, tokenizer = tiny_model("bert")
    settle = Settler(wt.Highest(1), confidence=0.6).watch
    texts = StreamedTexts(DataSpec("mine", streaming=0), set(), Dataset.from_list(ROWS[:59]).to_iterable_dataset())
    found = finish(gather_all(model, tokenizer, texts, [wt.CosineCentrality()], settle=settle, batch_size=4))[0]
    assert found.settlement.n_samples == found.settlement.texts == found.n_samples == 59


def test_a_stream_that_ends_with_a_part_and_a_part_without_a_row_that_can_be_used(tmp_path, short):
    rows = [*ROWS[:32], *[{"text": " ", "label": "neg"}] * 16, *ROWS[32:80]]
    for source, wanted in ((ROWS[:64], 64), (rows, 80)):
        spec = DataSpec(jsonl(tmp_path / "a.jsonl", source), streaming=0, bad_rows="skip")
        texts = StreamedTexts(spec, {"labels"})
        found = [(text, row) for part in texts.parts(16) for text, row in zip(part.texts, part.rows, strict=True)]
        assert [text for text, _ in found] == [(row["text"],) for row in source if row["text"] != " "]
        assert len(found) == texts.total == wanted and found[-1][1] == len(source) - 1
        assert texts.info.stream.whole and texts.info.left_out == len(source) - wanted
        assert texts.info.hash == load_data(replace(spec, streaming=None)).info.hash


def test_the_seed_shuffles(tmp_path, short):
    source = jsonl(tmp_path / "a.jsonl", ROWS)

    def read(**changes):
        texts = StreamedTexts(DataSpec(source, streaming=30, **changes), set())
        both = [[text for part in texts.parts(16) for text in part.texts] for _ in range(2)]
        assert both[0] == both[1] and texts.total == len(both[0])
        return both[0]

    first = read()
    assert first == read() != read(seed=1)
    assert sorted(first) == sorted((row["text"],) for row in ROWS) and first != [(row["text"],) for row in ROWS]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_stream(tmp_path):
    peaks = []
    for times in (1, 40, 150):  # the first opens what it takes
        path = tmp_path / "a.jsonl"
        with path.open("w") as file:
            for number in range(150 * times):
                file.write(json.dumps({**ROWS[number % 150], "number": number}) + "\n")
        gc.collect()
        tracemalloc.start()
        texts = StreamedTexts(DataSpec(str(path), streaming=1000), {"labels"})
        assert sum(map(len, texts.parts(64))) == 150 * times
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < path.stat().st_size / 5  # as objects the rows would take more than their file


# --- classes ---------------------------------------------------------------------------------------

LATE = [*ROWS[:40], {"text": "a later one", "label": "never seen"}, *ROWS[40:]]


def test_a_class_that_the_first_rows_have_not(tmp_path, short, caplog):
    source = jsonl(tmp_path / "a.jsonl", LATE)
    model, tokenizer = tiny_model("bert")
    needs = {"labels", "gradients"}
    with pytest.raises(DataError, match=r"row 41.*bad_rows=skip") as refused:
        list(StreamedTexts(DataSpec(source, streaming=0), needs).parts(16))
    assert "'never seen'" in str(refused.value)
    texts = StreamedTexts(DataSpec(source, streaming=0, bad_rows="skip"), needs)
    scores = score_all(model, tokenizer, texts, [wt.GradientNorm()], batch_size=4)[0]
    assert scores.n_samples == scores.data.rows == len(ROWS) and scores.data.left_out == 1
    assert caplog.text.count("left out") == 1 and "1 of all 151 rows" in caplog.text
    free = wt.score(model, tokenizer, DataSpec(source, streaming=0), wt.CosineCentrality())  # needs no labels
    assert free.n_samples == len(LATE) and "never seen" not in free.data.classes
    assert free.layers == wt.score(model, tokenizer, source).layers


def test_classes_that_the_source_names_are_known_before_they_come(tmp_path, short, caplog):
    ordered = sorted(ROWS, key=lambda row: row["label"])
    named = Dataset.from_list(ordered).cast_column("label", ClassLabel(names=sorted({row["label"] for row in ROWS})))
    named.to_parquet(tmp_path / "a.parquet")
    source, needs = str(tmp_path / "a.parquet"), {"labels", "gradients"}
    texts = StreamedTexts(DataSpec(source, streaming=0), needs)
    assert "none of the 20 rows" in caplog.text
    assert texts.beginning.info.classes == load_data(source).info.classes
    assert sum(map(len, texts.parts(16))) == len(ROWS) and texts.info.hash == load_data(source).info.hash
    with pytest.raises(DataError, match="one class only"):
        StreamedTexts(DataSpec(jsonl(tmp_path / "a.jsonl", ordered), streaming=0), needs)


def test_regression(tmp_path, short):
    source = jsonl(tmp_path / "a.jsonl", rows_of(60, regression=True))
    texts = StreamedTexts(DataSpec(source, streaming=0), {"labels"})
    assert texts.beginning.info.task.name == "regression"
    assert [label for part in texts.parts(16) for label in part.labels] == list(load_data(source).labels)


# --- going on, refusals, the hub's cache -----------------------------------------------------------


class Interrupted(BaseException):
    pass


@pytest.mark.slow
def test_an_interrupted_pass_goes_on(tmp_path, short):
    source = jsonl(tmp_path / "a.jsonl", ROWS * 3)
    model, tokenizer = tiny_model("bert")
    opened, left = opened_of(model, tokenizer), [90]

    def clock():
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted
        return 0.0

    def scored(keep):
        texts = StreamedTexts(DataSpec(source, streaming=40), {"labels", "gradients"})
        return finish(gather(opened, texts, SCORERS, Reading(batch_size=2), keep=keep))

    whole = scored(None)
    keep = Keep(tmp_path / "unfinished.safetensors", every=0.0, clock=clock)
    with pytest.raises(Interrupted):
        scored(keep)
    assert keep.file.is_file()
    gone_on = scored(keep)
    assert values(gone_on) == values(whole) and gone_on[0].data == whole[0].data


def test_what_is_refused(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", ROWS)
    spec = DataSpec(source, streaming=0)
    model, tokenizer = tiny_model("bert")
    with pytest.raises(ConfigError, match="only scoring streams") as refused:
        load_data(spec)
    assert refused.value.field == "streaming"
    for needs, why in (({"language-model", "labels"}, "asks a language model"), ({"training"}, "trains")):
        with pytest.raises(ConfigError, match=rf"a scorer that {why}.*leave streaming out"):
            StreamedTexts(spec, needs)
    texts = StreamedTexts(spec, set())
    with pytest.raises(ConfigError, match=r"a stream .* has no shards"):
        gather_all(model, tokenizer, texts, [wt.CosineCentrality()], shard=(1, 2))
    with pytest.raises(ConfigError, match="betting needs to know how many"):
        gather_all(
            model, tokenizer, texts, [wt.CosineCentrality()], settle=Settler(wt.Highest(1), bound="betting").watch
        )
    with pytest.raises(ConfigError, match="streaming is -1"):
        replace(spec, streaming=-1)
    with pytest.raises(DataError, match="standard input"):
        StreamedTexts(DataSpec("-", streaming=0), set())
    with pytest.raises(DataError, match="no such file"):
        StreamedTexts(DataSpec("absent.jsonl", streaming=0), set())
    with pytest.raises(DataError, match="has no rows"):
        StreamedTexts(DataSpec(jsonl(tmp_path / "empty.jsonl", []), streaming=0), set())


def test_a_line_that_is_no_json_and_a_stream_that_breaks_off(tmp_path, short):
    path = tmp_path / "a.jsonl"
    jsonl(path, ROWS)
    with path.open("a") as file:
        file.write("{\n")
    with pytest.raises(DataError, match="line 151 is not JSON"):
        list(StreamedTexts(DataSpec(str(path), streaming=0), set()).parts(16))

    def broken():
        yield from ROWS[:30]
        raise ConnectionError("the line is dead")

    texts = StreamedTexts(DataSpec("mine", streaming=0), set(), IterableDataset.from_generator(broken))
    with pytest.raises(DataError, match=r"the stream of mine broke off \(.*the line is dead"):
        list(texts.parts(16))


def test_a_data_set_in_the_hubs_cache_streams_without_a_network(tmp_path, monkeypatch):
    """As `load_dataset` leaves one there: Arrow, by the names that `datasets` gives its files."""
    ClassLabels = ClassLabel(names=sorted({row["label"] for row in ROWS}))
    made = Dataset.from_list(ROWS).cast_column("label", ClassLabels)
    made.to_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "cache" / "acme___toy" / "default" / "0.0.0" / "0123456789abcdef"
    builder = datasets.load_dataset_builder("parquet", data_files={"train": str(tmp_path / "a.parquet")})
    builder.download_and_prepare(folder, file_format="arrow")
    for file in folder.glob("parquet-train*"):
        file.rename(file.with_name(file.name.replace("parquet-", "toy-")))
    texts = StreamedTexts(DataSpec("acme/toy", streaming=0), {"labels"})
    assert [text for part in texts.parts(64) for text in part.texts] == [(row["text"],) for row in ROWS]
    assert texts.info.stream.source == "0123456789abcdef" and texts.info.classes == tuple(ClassLabels.names)
    with pytest.raises(DataError, match="a stream has no slice"):
        StreamedTexts(DataSpec("acme/toy::train[:10%]", streaming=0), set())
    with pytest.raises(DataError, match="one is streamed at a time"):
        StreamedTexts(DataSpec(f"acme/toy,{tmp_path / 'a.parquet'}", streaming=0), set())
    with pytest.raises(DataError, match="acme/other"):
        StreamedTexts(DataSpec("acme/other", streaming=0), set())


def test_a_row_that_is_left_out_moves_no_look(run, tmp_path, tiny_folder):
    rows = [{"text": " ", "label": "good"}, *ROWS * 2]
    call = ("score", "--model", tiny_folder("bert"), "--train", jsonl(tmp_path / "a.jsonl", rows), "--batch-size", "4")
    call += ("--streaming", "--shuffle-buffer", "0", "--until-settled", "--tolerance", "1", "--confidence", "0.5")
    code, _, err = run(*call, "--bad-rows", "skip", "--output", tmp_path / "scores.json")
    found = json.loads((tmp_path / "scores.json").read_text())
    assert code == 0 and found["settlement"]["settled"] and found["data"]["rows"] < len(ROWS), err


def test_the_command(run, tmp_path, tiny_folder):
    source, output = jsonl(tmp_path / "a.jsonl", ROWS * 2), tmp_path / "scores.json"
    model = tiny_folder("bert")
    call = ("score", "--model", model, "--train", source, "--output", output, "--batch-size", "4", "--streaming")
    code, said, _ = run(*call, "--until-settled", "--tolerance", "1", "--confidence", "0.5")
    assert code == 0 and "the stream was read in part, shuffled through a buffer of 10000 rows" in said
    about = json.loads(output.read_text())["data"]
    assert about["spec"]["streaming"] == 10000 and about["rows"] == 64 and about["stream"]["whole"] is False
    code, said, _ = run(*call, "--overwrite")
    assert code == 0 and "read to its end, in its order" in said
    code, said, _ = run("plan", output, "--output", tmp_path / "plan.json")
    assert code == 0
    for more, why in (
        (("--shard", "1/2"), "--shard has no effect with --streaming"),
        (("--shuffle-buffer", "-1"), "--shuffle-buffer is -1"),
        (("--scorer", "layer-probe"), "a scorer that trains needs all rows at once"),
        (("--until-settled", "--bound", "betting"), "betting needs to know"),
    ):
        code, _, said = run(*call, "--overwrite", *more)
        assert code == 2 and why in " ".join(said.split()), said
    code, _, said = run("score", "--model", model, "--train", source, "--shuffle-buffer", "5")
    assert code == 2 and "add --streaming" in said
    for command in (("tune", "--model", model), ("evaluate", "somewhere"), ("plan", "--model", model)):
        code, _, said = run(*command, "--streaming")
        assert code == 2 and "score` alone streams" in " ".join(said.split())
