"""Reading and checking data: every format gives the same rows, and every mistake one clear line."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.models import tiny_tokenizer
from helpers.texts import sentences
from wheretune import DataSpec, from_texts, load_data
from wheretune.data.batches import collator, length_batches
from wheretune.data.samplers import EpochBuckets
from wheretune.data.tokens import encode
from wheretune.errors import ConfigError, DataError
from wheretune.records.base import Spec

ROWS = [
    {"text": 'a "good" plot, they said', "label": "yes"},
    {"text": "bad\nmovie", "label": "no"},
    {"text": "null", "label": "no"},
]


def write(folder, ending):
    path = folder / f"rows{ending}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if ending == ".jsonl":
        path.write_text(lines + "\n")
    elif ending == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        mark = "," if ending == ".csv" else "\t"
        quoted = [f'"{row["text"].replace(chr(34), chr(34) * 2)}"{mark}{row["label"]}' for row in ROWS]
        path.write_text("\n".join([f"text{mark}label", *quoted]) + "\n")
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same(tmp_path, ending):
    data = load_data(DataSpec(str(write(tmp_path, ending))))
    assert data.texts == tuple((row["text"],) for row in ROWS)
    assert data.info.classes == ("no", "yes") and data.labels == (1, 0, 0)
    assert data.info.task == Spec("classification")


def spec(tmp_path, rows, **options):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = {name: options.pop(name) for name in ("max_samples", "seed") if name in options}
    return DataSpec(str(path), Spec(options.pop("task", "auto"), options), **drawn)


def good(n=4):
    return [{"text": text, "label": i % 2} for i, text in enumerate(sentences(n))]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([*good(), {"text": " \t", "label": 1}, {"text": "", "label": 0}], {}, r"empty text in rows 5, 6 \(the first "),
        ([*good(), {"text": None, "label": 1}], {}, "empty text in row 5"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": 1}], {}, "one class only .*label is '1'"),
        ([*good(), {"text": "a"}], {}, "no label in row 5"),
        (good(), {"text_column": "sentence"}, r"no column 'sentence' \(its columns: text, label\)"),
        (good(), {"pair_column": "other"}, "no column 'other'"),
        (good(), {"label_column": "class"}, "no column 'class'"),
        ([{"text": "a", "label": x} for x in (0.5, 0.5)], {}, "same label in every row"),
        ([{"text": "a", "label": x} for x in ("1.5", "x")], {"task": "regression"}, "'x' in row 2"),
        ([{"text": "a", "label": str(i)} for i in range(60)], {}, "60 different values of label"),
        ([{"text": "a", "label": str(i)} for i in range(21)], {}, "21 different values of label in 21 rows"),
        (good(), {"label_column": "text"}, "would be both the text and its label"),
        (good(), {"text_column": "label"}, "would be both the text and its label"),
        ([{"text": "a", "label": x} for x in (0.5, 0.2, "?", 0.7)], {}, "no number as label: '[?]' in row 3"),
        ([{"text": "a", "label": x} for x in ("0.5", "0.2", "inf")], {}, "no number as label: 'inf' in row 3"),
        ([{"text": "a", "label": x} for x in ("2,3", "1,0", "3,4")], {}, "numbers with commas, such as 1,0"),
    ],
)  # fmt: skip
def test_bad_rows(tmp_path, rows, options, message):
    with pytest.raises(DataError, match=message):
        load_data(spec(tmp_path, rows, **options))


def test_a_draw_of_no_rows():
    with pytest.raises(ConfigError, match="max samples is 0") as refused:
        DataSpec("rows.jsonl", max_samples=0)
    assert refused.value.field == "max_samples"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", "", "no rows"),
        ("x.jsonl", '{"text": 1}\nnot json\n', "line 2 is not JSON"),
        ("x.jsonl", "[1, 2]\n", "holds no list of JSON objects"),
        ("x.jsonl", "[1, 2]\n[1, 3]\n", "line 1 is no JSON object"),
        ("x.csv", "text,label\na,b\ntext,label\n", "row 2 is the header once more"),
        ("x.csv", f"{','.join(map(str, range(30)))}\n1\n", r"no column 'label' .*, 19 and 10 more\)"),
        ("x.csv", "text,label\na,b,c\n", "row 1 has more cells"),
        ("x.parquet", "no parquet", "cannot be read as .parquet"),
        ("x.jsonl.gz", "no gzip", "cannot be read as .jsonl.gz"),
        ("x.docx", "?", "ending that is not known"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_data(DataSpec(str(path)))


def test_a_missing_file_and_a_hub_name_without_network(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_data(DataSpec(str(tmp_path / "nothing.csv")))
    with pytest.raises(DataError, match=r"https://host/x\.csv.* is an address, .*; download it first"):
        load_data(DataSpec("https://host/x.csv"))
    with pytest.raises(DataError, match="the hub does not give the data set glue:sst2:train"):
        load_data(DataSpec("glue:sst2:train"))


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        ([0, 10, 2, 2], "classification", ("0", "2", "10")),
        ([1.0, 0.0, 1.0, 0.0], "classification", ("0", "1")),
        ([True, False, True, False], "classification", ("False", "True")),
        (["4.5", "3", "1", "2"], "regression", ()),
        ([4.5, 3, 1, 2], "regression", ()),
        (["b", "a", "b", "a"], "classification", ("a", "b")),
        (["1.5", "a", "b", "a"], "classification", ("1.5", "a", "b")),
    ],
)
def test_task_and_classes(labels, task, classes):
    data = from_texts(sentences(4), labels)
    assert (data.info.task.name, data.info.classes) == (task, classes)


def test_later_data_shares_the_classes_of_the_training_data(tmp_path):
    info = from_texts(sentences(3), ["no", "yes", "perhaps"]).info
    later = load_data(spec(tmp_path, [{"text": "a", "label": "yes"}]), like=info)
    assert later.labels == (2,) and later.info.classes == info.classes
    with pytest.raises(
        DataError, match=r"the label 'maybe', which the training data has not \(no, perhaps, yes\), in row 1"
    ):
        load_data(spec(tmp_path, [{"text": "a", "label": "maybe"}]), like=info)


def test_a_default_label_column_may_be_missing_where_labels_are_optional(tmp_path):
    rows = [{"text": "a"}, {"text": "b"}]
    assert load_data(spec(tmp_path, rows), labels="optional").labels is None
    with pytest.raises(DataError, match="no column 'label'"):
        load_data(spec(tmp_path, rows))
    with pytest.raises(DataError, match="no column 'kind'"):
        load_data(spec(tmp_path, rows, label_column="kind"), labels="optional")


def test_max_samples_is_a_seeded_draw(tmp_path):
    rows = good(40)
    drawn = [load_data(spec(tmp_path, rows, max_samples=10, seed=seed)).texts for seed in (0, 0, 1)]
    assert len(drawn[0]) == 10 and drawn[0] == drawn[1] != drawn[2]


def test_rows_are_named_as_they_stand_in_the_file(tmp_path):
    rows = [{"text": "a", "label": i % 2} for i in range(50)]
    rows[33]["text"] = ""
    with pytest.raises(DataError, match=r"empty text in row 34 \("):
        for seed in range(20):
            load_data(spec(tmp_path, rows, max_samples=25, seed=seed))


def test_stray_quotes(tmp_path):
    path = tmp_path / "glue.tsv"
    path.write_text('text\tlabel\n"he said so\tyes\nshe "too" said\tno\n5" disk\tno\n')
    assert [text for (text,) in load_data(DataSpec(str(path))).texts] == ['"he said so', 'she "too" said', '5" disk']
    path = tmp_path / "broken.csv"
    path.write_text('text,label\n"he said so,yes\nshe said,no\n')
    with pytest.raises(DataError, match=r"cannot be read as \.csv"):
        load_data(DataSpec(str(path)))


def test_rows_that_are_not_all_pairs():
    with pytest.raises(DataError, match="some rows are pairs"):
        from_texts(["a", ("b", "c")])


def test_a_tokenizer_without_padding_token():
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.pad_token = None
    with pytest.raises(DataError, match="no padding token"):
        collator(tokenizer)


def test_batches_hold_every_row_once_by_length():
    tokenizer = tiny_tokenizer("bert")
    rows = encode(from_texts(sentences(23)), tokenizer, 64)
    batches = length_batches(rows, 5)
    assert sorted(row["row"] for batch in batches for row in batch) == list(range(23))
    lengths = [len(row["input_ids"]) for batch in batches for row in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_the_collator_pads_to_the_longest_of_the_batch_only():
    tokenizer = tiny_tokenizer("bert", "left")
    rows = encode(from_texts(["good", "a bad movie"], ["x", "y"]), tokenizer, 64)
    batch = collator(tokenizer)(rows)
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch["labels"].dtype == torch.int64 and "row" not in batch
    numbers = collator(tokenizer)(encode(from_texts(["good", "bad"], [0.5, 1.5]), tokenizer, 64))
    assert numbers["labels"].dtype == torch.float32


def test_epochs_are_a_function_of_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = EpochBuckets([i % 7 + 1 for i in range(50)], 4, seed)
        sampler.set_epoch(epoch)
        torch.rand(1)  # the global generator must not matter
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert sorted(order(3, 2)) == list(range(50))
