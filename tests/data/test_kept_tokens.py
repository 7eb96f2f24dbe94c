"""Tokens are made once: the next process opens them, unless something that they are made of is another."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

import wheretune as wt
from helpers.models import tiny_tokenizer
from helpers.texts import classes_of, sentences
from wheretune import Spec, load_data
from wheretune.data import kept_tokens
from wheretune.data.kept_tokens import make_room
from wheretune.data.stored import StoredRows
from wheretune.data.texts import take
from wheretune.records.data import DataSpec
from wheretune.tasks.base import task_of

TEXTS = sentences(60)
SOURCES = [path for path in sys.path if path.endswith(("src", "tests"))]
CHATS = [
    {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"{text} {number}"}]}
    for number, text in enumerate(TEXTS)
]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder, with few tokens being many, and parts so small that most of them come after that is seen."""
    monkeypatch.setenv("WHERETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("wheretune.data.stored.IN_MEMORY", 50)
    monkeypatch.setattr("wheretune.data.tokens.PART", 7)
    monkeypatch.setattr("wheretune.tasks.language.PART", 7)
    return tmp_path / "cache" / "tokens"


class Counting:
    """A tokenizer that counts the texts it is handed."""

    def __init__(self, tokenizer):
        self._tokenizer, self.texts = tokenizer, 0

    @property
    def __class__(self):
        return self._tokenizer.__class__

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, texts, *more, **settings):
        self.texts += len(texts)
        return self._tokenizer(texts, *more, **settings)


def made(data, length=12, tokenizer=None):
    """The encoded rows, and how many texts were tokenised for them."""
    counting = Counting(tokenizer or tiny_tokenizer("bert"))
    rows = task_of(data.info).encode(data, counting, length)
    return rows, counting.texts


def test_the_second_time_they_are_opened(kept, caplog):
    data = wt.from_texts(TEXTS, classes_of(60))
    first, texts = made(data)
    assert isinstance(first, StoredRows) and texts == 60 and len(list(kept.iterdir())) == 1
    said = caplog.text
    caplog.clear()
    tokenizer = tiny_tokenizer("bert")
    tokenizer("a text cut and padded otherwise before", truncation=True, max_length=3, padding="max_length")
    again, texts = made(data, tokenizer=tokenizer)
    assert (
        texts < 20
        and list(again) == list(first)
        and [type(v) for v in again[0].values()] == [type(v) for v in first[0].values()]
    )
    assert "probably cut" in said and caplog.text == said
    moved = replace(data, info=replace(data.info, spec=replace(data.info.spec, source="elsewhere")))
    assert made(moved)[1] < 20  # the rows count, not where they lie


def other_tokenizer(word):
    tokenizer = tiny_tokenizer("bert")
    tokenizer.add_tokens([word])
    return tokenizer


OTHERS = {
    "a text": lambda data: (replace(data, texts=(("another",), *data.texts[1:])), 12, None),
    "a label": lambda data: (replace(data, labels=(data.labels[1], *data.labels[1:])), 12, None),
    "a row": lambda data: (replace(data, rows=(99, *data.rows[1:])), 12, None),
    "the order": lambda data: (take(data, range(59, -1, -1)), 12, None),
    "fewer rows": lambda data: (take(data, range(40)), 12, None),
    "no labels": lambda data: (replace(data, labels=None), 12, None),
    "length": lambda data: (data, 11, None),
    "tokenizer": lambda data: (data, 12, other_tokenizer("worte")),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_made_of_something_else_is_made_anew(kept, name):
    data = wt.from_texts(TEXTS, ["a", "b", "b"] * 20)
    made(data)
    changed, length, tokenizer = OTHERS[name](data)
    rows, texts = made(changed, length, tokenizer)
    assert texts == len(changed) and len(list(kept.iterdir())) == 2
    assert list(rows) == list(task_of(changed.info).encode(changed, tokenizer or tiny_tokenizer("bert"), length))


def chatted(**settings):
    data = load_data(DataSpec("mine", Spec("chat", settings)), rows=CHATS)
    return task_of(data.info), data


def test_conversations_and_their_template(kept, caplog, tmp_path):
    tokenizer = tiny_tokenizer("llama")
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}")

    def rows(**settings):
        task, data = chatted(**settings)
        caplog.clear()
        found = list(task.encode(data, tokenizer, 24))
        return found, [line for line in caplog.text.splitlines() if "are cut" in line], len(list(kept.iterdir()))

    first, said, files = rows(chat_template="plain")
    assert files == 1 and said and rows(chat_template="plain") == (first, said, 1)
    assert rows(chat_template="plain", train_on="all")[2] == 2
    assert rows(chat_template=str(template))[2] == rows(chat_template=str(template))[2] == 3
    template.write_text(template.read_text().replace(": ", "> "))
    assert rows(chat_template=str(template))[2] == 4
    template.write_text("{{ strftime_now('%d') }}" + template.read_text())  # another tomorrow
    assert rows(chat_template=str(template))[2] == 4


@pytest.mark.parametrize("harm", ["a byte", "the end", "nothing left", "no tokens"])
def test_a_damaged_file_is_noticed_and_written_anew(kept, harm, caplog):
    data = wt.from_texts(TEXTS, classes_of(60))
    first = list(made(data)[0])
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    path.write_bytes(
        {
            "a byte": whole[:900] + bytes([whole[900] ^ 1]) + whole[901:],
            "the end": whole[:-3],
            "nothing left": b"",
            "no tokens": b"x" * len(whole),
        }[harm]
    )
    rows, texts = made(data)
    assert texts == 60 and list(rows) == first and "cannot be used" in caplog.text
    assert path.read_bytes() == whole and made(data)[1] < 20


def test_the_folder_is_bounded(kept, monkeypatch):
    every = [wt.from_texts([f"{text} {number}" for text in TEXTS]) for number in range(3)]
    made(every[0])
    (first,) = kept.iterdir()
    monkeypatch.setattr(kept_tokens, "MOST", int(2.5 * first.stat().st_size))
    made(every[1])
    os.utime(first, (1, 1))
    assert made(every[0])[1] < 20 and first.stat().st_mtime > 1  # it was used
    second = next(path for path in kept.iterdir() if path != first)
    os.utime(second, (1, 1))
    made(every[2])
    assert len(list(kept.iterdir())) == 2 and first.exists() and not second.exists()
    monkeypatch.setattr(kept_tokens, "MOST", 100)
    before = set(kept.iterdir())
    assert made(every[1])[1] == 60 and set(kept.iterdir()) == before  # larger than all that may be there


def test_what_a_killed_process_left_goes(tmp_path):
    for name, age in ((".a.arrow.partial-x", 1), (".b.arrow.partial-y", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "draft").write_text("half")
        if age is not None:
            os.utime(tmp_path / name, (age, age))
    make_room(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".b.arrow.partial-y"]  # another process may be at it


def test_nowhere(kept, monkeypatch, tmp_path, caplog):
    data = wt.from_texts(TEXTS)
    monkeypatch.setenv("WHERETUNE_CACHE", "")
    assert made(data)[1] == made(data)[1] == 60 and not kept.exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WHERETUNE_CACHE", str(tmp_path / "file"))
    assert made(data)[1] == made(data)[1] == 60 and "are not kept for the next run" in caplog.text
    monkeypatch.delenv("WHERETUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    made(data)
    assert len(list((tmp_path / "home" / "wheretune" / "tokens").glob("*.arrow"))) == 1


PROCESS = """
import json, sys
import wheretune as wt
from helpers.models import tiny_tokenizer
from helpers.texts import sentences
from wheretune.data import stored, tokens
stored.IN_MEMORY, tokens.PART = 50, 7
print(json.dumps(list(tokens.encode(wt.from_texts(sentences(60)), tiny_tokenizer("bert"), 12))))
"""


@pytest.mark.slow
def test_processes_that_write_at_once_do_no_harm(kept):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(SOURCES)}
    calls = [
        subprocess.Popen([sys.executable, "-c", PROCESS], env=environment, stdout=subprocess.PIPE) for _ in range(2)
    ]
    said = [call.communicate(timeout=200)[0] for call in calls]
    rows, texts = made(wt.from_texts(TEXTS))
    assert texts < 20 and [json.loads(one) for one in said] == [list(rows)] * 2
    assert len(list(kept.iterdir())) == 1
