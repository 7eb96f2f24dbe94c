"""Where data comes from: files of every kind, folders of splits, patterns, the hub's cache, and what is in memory."""

import bz2
import io
import json
import sys
import types

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from wheretune import DataSpec, Spec, load_data
from wheretune.data.content import _standard_input
from wheretune.data.sources import located, read_source
from wheretune.errors import DataError

ROWS = [{"text": "good", "label": "p"}, {"text": "bad", "label": "n"}, {"text": "so so", "label": "n"}]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
PANDAS = ("columns", "index", "split", "records", "table")  # the orientations of `to_json`
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = "text,label\ngood,p\nbad,n\nso so,n\n"


def content(data):
    return [*data.texts], [data.info.classes[label] for label in data.labels]


WANTED = ([(row["text"],) for row in ROWS], [row["label"] for row in ROWS])


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.jsonl", JSONL.encode("utf-8-sig")),
        ("a.jsonl.bz2", bz2.compress(JSONL.encode())),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json", JSONL.encode()),
        ("a.json", json.dumps({"version": 1, "data": ROWS}).encode()),
        ("a.json", json.dumps(COLUMNS).encode()),
        ("a.json", json.dumps({"data": ROWS, "errors": []}).encode()),
        ("a.json", json.dumps({**COLUMNS, "about": [{}, {}, {}]}).encode()),
        *(("a.json", pd.DataFrame(ROWS).to_json(orient=how).encode()) for how in PANDAS),
        ("a.jsonl", json.dumps(ROWS, indent=1).encode()),
        ("a.csv", b"sep=;\r\n" + CSV.replace(",", ";").encode()),
        ("a.csv", CSV.encode("utf-16-le")),
        ("a.csv", CSV.encode("utf-16-be")),
        ("a.txt", CSV.encode()),
        ("a.txt", CSV.replace(",", ";").encode()),
        ("a.txt", CSV.replace(",", "\t").encode()),
        ("a.csv", CSV.encode("utf-8-sig")),
        ("a.csv", CSV.encode("utf-16")),
        ("a.csv", CSV.replace(",", ";").encode()),
        ("a.csv", CSV.replace("\n", "\r\n").encode()),
        ("a.csv", CSV.replace("text", " text").replace(",n", ",n,,").encode()),
        ("a.CSV", CSV.encode()),
        ("noending", CSV.encode()),
        ("noending", CSV.replace(",", "\t").encode()),
        ("noending", JSONL.encode()),
        ("noending", bz2.compress(json.dumps(ROWS).encode())),
    ],
)
def test_files_of_every_kind(tmp_path, name, written):
    (tmp_path / name).write_bytes(written)
    assert content(load_data(str(tmp_path / name))) == WANTED


def test_lines_with_a_comma_are_texts(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("good, they say\nbad, or so\na tab\there\n")
    data = load_data(DataSpec(str(tmp_path / "a.txt"), Spec("text", {})))
    assert [text for (text,) in data.texts] == ["good, they say", "bad, or so", "a tab\there"]
    assert "as a table" not in caplog.text


def test_a_link_is_read_by_its_own_ending_or_that_of_what_it_points_to(tmp_path):
    (tmp_path / "blob").write_text(CSV)
    (tmp_path / "train.csv").symlink_to("blob")
    (tmp_path / "link").symlink_to("train.csv")
    for name in ("train.csv", "link", "blob"):
        assert content(load_data(located(str(tmp_path / name)))) == WANTED
    assert located(str(tmp_path / "train.csv")).endswith("train.csv")


STRAY = ["good film", "bad film", "good song", "bad song", "good day", "bad day"]


@pytest.mark.parametrize("label_first", [False, True])
@pytest.mark.parametrize("mark", ["\t", ","])
def test_a_stray_quote_swallows_no_rows(tmp_path, mark, label_first):
    texts = [f'"{STRAY[0]}', *STRAY[1:4], f'{STRAY[4]}"', STRAY[5]]
    cells = [("text", "label"), *((text, "pn"[i % 2]) for i, text in enumerate(texts))]
    path = tmp_path / ("t.tsv" if mark == "\t" else "t.csv")
    path.write_text("".join(mark.join(reversed(row) if label_first else row) + "\n" for row in cells))
    if mark == "\t" or label_first:
        try:
            assert [text for (text,) in load_data(str(path)).texts] == texts
        except DataError:
            assert mark == ","
        return
    with pytest.raises(DataError, match="row 1 has a quotation mark that is closed rows later"):
        load_data(str(path))


def test_a_stray_quote_around_all_rows(tmp_path):
    lines = [f"{text},{'pn'[i % 2]}" for i, text in enumerate(STRAY)]
    path = tmp_path / "t.csv"
    path.write_text('text,label\n"' + "\n".join(lines[:-1]) + '\nend",p\n')
    with pytest.raises(DataError, match="row 1 has a quotation mark that is closed rows later"):
        load_data(str(path))


def test_a_quoted_text_over_several_lines_is_one_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('text,label\n"hello, dear\nfriend",p\n"one, two, three\nfour, five",n\nbad,n\n')
    assert [text for (text,) in load_data(str(path)).texts] == [
        "hello, dear\nfriend",
        "one, two, three\nfour, five",
        "bad",
    ]


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("a.csv", "text,text,label\na,b,p\nc,d,n\n", r"no column 'text' \(its columns: text.1, text.2, label\)"),
        ("a.jsonl", '{"text": "a", "text": "b", "label": 1}\n', "line 1 is not JSON .it has 'text' twice"),
        ("a.csv", b"text,label\ncaf\xe9,p\n", r"is not UTF-8 \(byte 0xe9 in line 2\)"),
        ("a.json", '"words"', "holds no list of JSON objects"),
        ("a.json", json.dumps({"train": ROWS, "test": ROWS}), r"several tables \(train, test\)"),
        ("a.json", json.dumps({"text": ["a", "b"], "label": ["n"]}), "differ in length"),
        ("a.csv", "PK\x03\x04and more", "a zip archive, or a workbook of Excel; unpack it"),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("words", "words\nwords\n", "has no ending, and does not look like a table"),
    ],
)
def test_files_that_are_refused(tmp_path, name, written, said):
    (tmp_path / name).write_bytes(written if isinstance(written, bytes) else written.encode())
    with pytest.raises(DataError, match=said):
        load_data(str(tmp_path / name))


def test_columns_of_one_name_can_be_told_apart(tmp_path):
    (tmp_path / "a.csv").write_text("text,text,label\na,b,p\nc,d,n\n")
    spec = DataSpec(str(tmp_path / "a.csv"), Spec("auto", {"text_column": "text.2"}))
    assert load_data(spec).texts == (("b",), ("d",))


def test_classes_of_parquet_have_the_names_that_datasets_wrote_down(tmp_path):
    features = {"text": {"dtype": "string"}, "label": {"names": ["n", "p"], "_type": "ClassLabel"}}
    about = {"info": {"features": features}}
    table = pa.table({"text": ["good", "bad", "?"], "label": [1, 0, -1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), tmp_path / "a.parquet")
    data = load_data(DataSpec(str(tmp_path / "a.parquet"), bad_rows="skip"))
    assert content(data) == ([("good",), ("bad",)], ["p", "n"]) and data.unread == {2: "no label"}


def test_several_files_and_patterns(tmp_path):
    for i in (1, 2):
        (tmp_path / f"part-{i}.csv").write_text(CSV)
    several = f"{tmp_path}/part-1.csv,{tmp_path}/part-2.csv"
    assert content(load_data(several)) == content(load_data(f"{tmp_path}/part-*.csv")) == (WANTED[0] * 2, WANTED[1] * 2)
    (tmp_path / "part-2.csv").write_text(CSV + ",p\n")
    with pytest.raises(DataError, match=r"1 of 7 rows .*: empty text in row 4 of .*part-2\.csv"):
        load_data(f"{tmp_path}/part-*.csv")
    with pytest.raises(DataError, match="no file matches"):
        load_data(f"{tmp_path}/none-*.csv")


@pytest.mark.parametrize(
    "names", [("train.jsonl", "dev.csv"), ("train/1.jsonl", "validation/1.csv"), ("x-train-0.jsonl", "x.val.csv")]
)
def test_a_folder_of_splits(tmp_path, names):
    for name, written in zip(names, (JSONL, CSV), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(written)
    assert located(str(tmp_path)) == f"{tmp_path}::train"
    assert located(str(tmp_path), "test", "validation") == f"{tmp_path}::validation"
    (tmp_path / names[1]).write_text("text,label\nheld out,p\n")
    assert read_source(located(str(tmp_path), "validation"))[0][1] == [{"text": "held out", "label": "p"}]
    assert content(load_data(str(tmp_path))) == WANTED
    with pytest.raises(DataError, match=r"no split test \(its splits: .*validation.*\)"):
        load_data(f"{tmp_path}::test")


def test_a_folder_whose_files_name_no_split_is_for_training(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    assert content(load_data(str(tmp_path))) == WANTED


def test_standard_input_is_read_once(monkeypatch):
    _standard_input.cache_clear()
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(JSONL.encode())))
    assert content(load_data("-")) == content(load_data("-")) == WANTED
    _standard_input.cache_clear()


@pytest.mark.parametrize(
    ("piped", "said"), [("", "nothing comes"), ("a good film\n", r"neither JSON lines nor .*; write \{\"text\": ")]
)
def test_standard_input_without_rows(monkeypatch, piped, said):
    _standard_input.cache_clear()
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(piped.encode())))
    with pytest.raises(DataError, match=said):
        load_data("-")
    _standard_input.cache_clear()


def test_a_data_set_of_the_hub_comes_from_the_cache_when_the_hub_is_silent(tmp_path, monkeypatch):
    from datasets import Dataset, config

    asked = []

    def load_dataset(*given, **options):
        asked.append((given, options, config.HF_HUB_OFFLINE))
        return Dataset.from_list(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    before = config.HF_HUB_OFFLINE
    assert content(load_data("acme/toy")) == WANTED
    assert asked == [(("acme/toy", None), {"split": "train"}, True)] and before == config.HF_HUB_OFFLINE
    assert located("acme/toy", "test") == "acme/toy::test" and located("a:b:train[:10%]") == "a:b:train[:10%]"


def frames():
    import datasets
    import pandas

    data_set = datasets.Dataset.from_list(ROWS)
    named = data_set.map(lambda row: {"label": "np".index(row["label"])})
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    yield from (ROWS, tuple(ROWS), columns, data_set, pa.Table.from_pylist(ROWS), pandas.DataFrame(ROWS))
    yield {name: np.array(cells) for name, cells in columns.items()}
    yield datasets.DatasetDict(train=data_set, test=data_set.select([0]))
    named = named.cast_column("label", datasets.ClassLabel(names=["n", "p"]))
    yield from (named, named.with_format("torch"), named.to_iterable_dataset().with_format("torch"))
    yield named.with_format("torch", columns=["label"])
    yield pandas.DataFrame(ROWS).assign(label=lambda frame: frame.label.astype("category"))


@pytest.mark.parametrize("data", frames(), ids=lambda data: type(data).__name__)
def test_data_in_memory(data):
    assert content(load_data(data)) == WANTED
    assert content(load_data(DataSpec("mine"), rows=data)) == WANTED


def test_a_frame_of_polars(monkeypatch):
    class DataFrame:
        def lazy(self):
            return self

        def collect(self):
            return self

        def to_dicts(self):
            return ROWS

    monkeypatch.setitem(sys.modules, "polars", types.SimpleNamespace(DataFrame=DataFrame, LazyFrame=DataFrame))
    assert content(load_data(DataFrame())) == WANTED


@pytest.mark.parametrize(
    "data", [[1, 2], 3, [["a", "b"]], {"text": "a"}, {"text": ["a"], "label": []}, [{"text": "a"}, "b"]]
)
def test_what_holds_no_rows(data):
    with pytest.raises(DataError, match="give a list of dicts or of strings"):
        load_data(data)


def test_a_path_is_a_file(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    assert content(load_data(tmp_path / "a.csv")) == WANTED


def test_a_transform_of_ones_own_is_kept():
    import datasets

    shouted = datasets.Dataset.from_list(ROWS).with_transform(
        lambda batch: {**batch, "text": [text.upper() for text in batch["text"]]}
    )
    assert load_data(shouted).texts[0] == ("GOOD",)


def test_tokens_are_no_texts():
    with pytest.raises(DataError, match="before they were encoded"):
        load_data([{"input_ids": [1, 2], "label": 1}, {"input_ids": [1, 3], "label": 0}])


def test_strings_are_texts():
    assert load_data(["a", "b"], labels="optional").texts == (("a",), ("b",))


@pytest.mark.parametrize(
    "labels", [torch.tensor([1, 0, 0]), np.array([1, 0, 0], np.float32), ["1.0", "0.0", "0"], [1.0, 0, "0"]]
)
def test_numbers_that_are_the_same_class(labels):
    assert load_data({"text": ["a", "b", "c"], "label": labels}).info.classes == ("0", "1")
