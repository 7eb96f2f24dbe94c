"""Many rows lie on disk: what is made of them is what is made of few, which lie in memory, and takes no memory."""

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset
from transformers.trainer_pt_utils import get_length_grouped_indices

from helpers.models import tiny_model
from helpers.texts import sentences
from wheretune import DataSpec, Spec, load_data, score
from wheretune.data.batches import filled, length_places, spread
from wheretune.data.columns import Picked
from wheretune.data.reading import drawn
from wheretune.data.samplers import EpochBuckets
from wheretune.data.spooled import SpooledRows, spooled
from wheretune.data.stored_texts import StoredTexts, kept_texts
from wheretune.errors import DataError

ROWS = [
    {"text": f"{text} nr. {i}", "pair": f"é{i}", "label": ("bad", "good", "so-so")[i % 3], "number": i / 7, "more": [i]}
    for i, text in enumerate(sentences(40))
]


@pytest.fixture
def on_disk(monkeypatch):
    """Says that the rows of a test are many, and lets go of what was read at every other read."""

    def many():
        for name, value in (
            ("columns.MANY", 5), ("batches.MANY", 5),
            ("spooled.BLOCK", 4), ("stored_texts.PART", 3), ("mapped.READS", 2),
        ):  # fmt: skip
            monkeypatch.setattr(f"wheretune.data.{name}", value)

    return many


def content(data):
    more = None if data.continuations is None else list(data.continuations)
    return list(data.texts), data.labels and list(data.labels), list(data.rows), more, dict(data.unread), data.info


def written(folder, kind, rows):
    path = folder / f"rows{kind}"
    if kind in (".csv", ".tsv", ".parquet"):
        frame = pandas.DataFrame(rows).drop(columns="more")
        if kind == ".parquet":
            pq.write_table(pa.Table.from_pandas(frame), path, row_group_size=7)
        else:
            frame.to_csv(path, index=False, sep="," if kind == ".csv" else "\t")
        return str(path)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(json.dumps(rows) if kind == ".json" else lines, encoding="utf-16" if kind == "" else "utf-8")
    return str(path)


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".parquet", ""])
def test_many_rows_of_a_file_are_read_as_few_are(tmp_path, on_disk, kind):
    path = written(tmp_path, kind, ROWS)
    few = load_data(path)
    on_disk()
    many = load_data(path)
    assert content(many) == content(few)
    assert isinstance(few.texts, tuple) and isinstance(many.texts, StoredTexts)


@pytest.mark.parametrize(
    "kind", [list, pandas.DataFrame, pa.Table.from_pylist, Dataset.from_list, "columns", "classes"]
)
def test_many_rows_in_memory_are_read_as_few_are(on_disk, kind):
    rows = ROWS
    if kind == "columns":
        data = {name: [row[name] for row in rows] for name in rows[0]}
    elif kind == "classes":
        data = Dataset.from_list(rows).cast_column("label", ClassLabel(names=["bad", "good", "so-so"]))
    else:
        data = kind(rows)
    few = load_data(data)
    on_disk()
    assert content(load_data(data)) == content(few)


GAP, SHORT = {"text": " ", "label": "bad"}, {"text": "a"}
SPECS = {
    "pairs": {"task": Spec("auto", {"pair_column": "pair"})},
    "what follows": {"task": Spec("auto", {"target_column": "pair"})},
    "numbers": {"task": Spec("auto", {"label_column": "number"})},
    "lists": {"task": Spec("multi-label", {"label_column": "more"})},
    "raw text": {"task": Spec("text")},
    "generation": {"task": Spec("generation", {"source_column": "text", "target_column": "pair"})},
    "chat": {"task": Spec("chat", {"instruction_column": "text", "output_column": "pair"})},
    "a draw": {"max_samples": 17, "seed": 3},
    "a part": {"part": (0.1, 0.8)},
    "a part of a draw": {"part": (0.0, 0.5), "max_samples": 30},
}


@pytest.mark.parametrize("name", SPECS)
def test_every_task_and_draw(tmp_path, on_disk, name):
    spec = DataSpec(written(tmp_path, ".jsonl", ROWS), **SPECS[name])
    few = load_data(spec)
    on_disk()
    assert content(load_data(spec)) == content(few)


@pytest.mark.parametrize("bad", [[GAP], [SHORT, GAP], [{**GAP, "text": ["x"]}], [{"text": "\ud800", "label": "bad"}]])
def test_bad_rows_are_named_and_left_out_alike(tmp_path, on_disk, caplog, bad):
    path = written(tmp_path, ".jsonl", [*ROWS[:9], *bad, *ROWS[9:]])
    outcomes = []
    for prepare in (lambda: None, on_disk):
        prepare()
        caplog.clear()
        with pytest.raises(DataError) as refused:
            load_data(path)
        skipped = load_data(DataSpec(path, bad_rows="skip"))
        outcomes.append((str(refused.value), refused.value.field, content(skipped), caplog.text))
    assert outcomes[0] == outcomes[1] and "row 10" in outcomes[0][0]
    assert len(skipped) == len(ROWS) and isinstance(skipped.rows, Picked) and skipped.rows[9] == 9 + len(bad)


@pytest.mark.parametrize(
    ("ending", "more"),
    [
        (".jsonl", '{"text": 1'), (".jsonl", '{"text": "a", "text": "b"}'), (".jsonl", "[1]"),
        (".csv", 'a,"b'), (".csv", "a,b,c,d,e,f"), (".tsv", 'a\t"b'),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_alike(tmp_path, on_disk, ending, more):
    path = written(tmp_path, ending, ROWS)
    with Path(path).open("a") as file:
        file.write(more + "\n")
    said = []
    for prepare in (lambda: None, on_disk):
        prepare()
        try:
            said.append(str(content(load_data(path))))
        except DataError as error:
            said.append(str(error))
    assert said[0] == said[1]


def test_a_byte_that_is_no_utf8_is_found_behind_many_rows(tmp_path, on_disk):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a", "label": 0}\n' * 5000 + b'{"text": "\xff"}\n')
    on_disk()
    with pytest.raises(DataError, match=r"is not UTF-8 \(byte 0xff in line 5001\)"):
        load_data(str(path))


def test_rows_and_texts_on_disk_are_what_was_written(on_disk, tmp_path, monkeypatch):
    on_disk()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = [{"a": i, **({"b": {"c": [i, None, "\ud800"]}} if i % 3 else {})} for i in range(23)]
    found = spooled(iter(rows))
    assert isinstance(found, SpooledRows) and list(found) == rows and len(found) == 23
    assert [found[i] for i in (22, 0, -1, 4)] == [rows[i] for i in (22, 0, -1, 4)] and found[3:20:5] == rows[3:20:5]
    texts = [("é" * (i % 4), *("ab"[: i % 3])) for i in range(23)]
    kept = kept_texts(iter(texts))
    assert list(kept) == texts and kept[2:21] == texts[2:21] and kept[::5] == texts[::5] and kept[-2] == texts[-2]
    assert not list(tmp_path.iterdir())
    for sequence in (found, kept):
        with pytest.raises(IndexError):
            sequence[23]


def test_scores_are_those_of_few_rows(tmp_path, on_disk):
    model, tokenizer = tiny_model("bert")
    path = written(tmp_path, ".jsonl", ROWS)
    few = score(model, tokenizer, load_data(path), batch_size=3)
    on_disk()
    many = score(model, tokenizer, load_data(path), batch_size=3)
    assert many.values.tolist() == few.values.tolist() and many.n_samples == len(ROWS)


@pytest.mark.slow
def test_reading_many_rows_takes_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("wheretune.data.columns.MANY", 100)
    peaks = []
    for rows in (3_000, 12_000):
        path = tmp_path / f"{rows}.jsonl"
        with path.open("w") as file:
            for i in range(rows):
                file.write(json.dumps({"text": f"{i} " + "word " * 40, "label": i % 2}) + "\n")
        for part in (None, (0.0, 0.9)):
            tracemalloc.start()
            data = load_data(DataSpec(str(path), part=part))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert len(data) == rows * (0.9 if part else 1)
    whole, part = peaks[2] - peaks[0], peaks[3] - peaks[1]
    assert whole < 9_000 * 60  # bytes per row; as Python objects a row takes 600
    assert part < 9_000 * 120  # sorts the rows as well


# --- what walks over many rows ---------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5, 33, 1000])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_buckets_are_those_of_transformers(rows, batch_size):
    lengths = np.random.default_rng(rows).integers(1, 9, rows).tolist()
    for epoch in range(3):
        sampler = EpochBuckets(lengths, batch_size, 5)
        sampler.set_epoch(epoch)
        drawn = int(np.random.default_rng([5, epoch]).integers(2**63))
        theirs = get_length_grouped_indices(lengths, batch_size, generator=torch.Generator().manual_seed(drawn))
        assert list(sampler) == theirs


def test_batches_by_length_are_those_of_a_slow_twin():
    lengths = np.random.default_rng(0).integers(1, 30, 200).tolist()
    rows = [{"input_ids": [i] * length} for i, length in enumerate(lengths)]
    ordered = sorted(range(200), key=lambda place: -lengths[place])
    assert [place for batch in length_places(rows, 7) for place in batch] == ordered
    batches = []
    for place in ordered:
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > 25:
            batches.append([])
        batches[-1].append(place)
    assert list(filled(lengths, 25)) == batches


def test_what_two_ways_are_tried_on(on_disk):
    rows = [{"input_ids": [i % 3] * (1 + i % 4)} for i in range(24)]
    assert [len(row["input_ids"]) for row in spread(rows)] == [1, 3, 4]
    on_disk()
    assert [len(row["input_ids"]) for row in spread(rows)] == [1, 2, 4]  # of five of them


@pytest.mark.parametrize("part", [(0.0, 0.3), (0.3, 1.0)])
def test_parts_are_those_of_a_slow_twin(part):
    strata = [("a", "b", (1, 0))[i % 3 if i % 5 else 0] for i in range(100)]
    generator = np.random.default_rng([7, 1])
    within = {}
    for place in generator.permutation(100).tolist():
        within.setdefault(strata[place], []).append(place)
    keys = {place: (i + generator.random()) / len(own) for own in within.values() for i, place in enumerate(own)}
    start, stop = (round(100 * edge) for edge in part)
    expected = sorted(sorted(keys, key=keys.__getitem__)[start:stop])
    assert drawn(DataSpec("x", part=part, seed=7), 100, strata).tolist() == expected
