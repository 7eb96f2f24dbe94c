"""Texts: those that Transformers writes row by row, whatever the batch, and the same after a stop."""

import itertools
import json

import numpy as np
import pytest
import torch
import transformers as hf
from transformers import LogitsProcessor, LogitsProcessorList

from helpers.chats import chat_tokenizer
from helpers.language import FAMILIES
from helpers.often import often
from wheretune import catalog
from wheretune.errors import ConfigError, OutputError, TrainingError
from wheretune.generating import Job, Writer, drawn, job_of, lines_of
from wheretune.model.finding import find_layers
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.records.decoding import Decoding
from wheretune.support.lines import RowLines, about_file
from wheretune.tasks.loading import load_data

SOURCES = ["yes", "what is the answer", "the answer is 42", "no no no", "yes", "user a assistant", "a", "42 yes no"]


@pytest.fixture(scope="module")
def tokenizer():
    return chat_tokenizer(None)


@pytest.fixture(scope="module")
def model_of(tokenizer):
    made = {}

    def model(family):
        if family not in made:
            config = FAMILIES[family]()
            config.vocab_size, config.eos_token_id = len(tokenizer), tokenizer.eos_token_id
            torch.manual_seed(1)
            one = hf.AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():
                for parameter in one.parameters():
                    if parameter.ndim == 2:
                        parameter.mul_(4)
            one.generation_config = hf.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
            made[family] = one
        return made[family]

    return model


def data_of(sources=SOURCES):
    rows = [{"source": one} for one in sources]
    return load_data(DataSpec("here", Spec("generation"), bad_rows="skip"), rows=rows, labels="asked")


def texts_of(job, model, tokenizer, batch_size):
    return {line["row"]: line["text"] for some in lines_of(job, model, tokenizer, batch_size) for line in some}


class Banned(LogitsProcessor):
    """The slow twin: no n-gram of what was written is written again."""

    def __init__(self, size, start):
        self.size, self.start = size, start

    def __call__(self, ids, scores):
        scores = scores.clone()
        for row, tokens in enumerate(ids[:, self.start :].tolist()):
            seen = {tuple(tokens[i : i + self.size]) for i in range(len(tokens) - self.size + 1)}
            before = tuple(tokens[len(tokens) - self.size + 1 :])
            for gram in seen:
                if gram[:-1] == before:
                    scores[row, gram[-1]] = -torch.inf
        return scores


def alone(job, model, tokenizer, **settings):
    """Every row by itself, without padding, through `generate` as a user calls it."""
    made = {}
    for one in job.prompts:
        ids = torch.tensor([one.ids])
        size = settings.get("of_the_written")
        own = LogitsProcessorList([Banned(size, ids.shape[1])] if size else [])
        given = {name: value for name, value in settings.items() if name != "of_the_written"}
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(job.ends), logits_processor=own, **given,
        )  # fmt: skip
        text = tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)
        made[one.row] = text.split("\n\n")[0].strip() if size else text
    return made


# Granite, which divides its logits, is left out: two of its beams tie, and rounding says which is the better one.
E2E = dict(num_beams=4, max_new_tokens=12, length_penalty=0.8, early_stopping="never", renormalize_logits=True)


@pytest.mark.parametrize(
    ("given", "theirs"),
    [
        ({}, {"do_sample": False}),
        ({"num_beams": 3}, {"num_beams": 3}),
        ({"num_beams": 3, "length_penalty": 2.0, "early_stopping": True}, None),
        ({"num_beams": 2, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3}, None),
        ({"rules": "e2e", "num_beams": 4, "no_repeat_ngram_size": 2}, E2E | {"of_the_written": 2}),
    ],
    ids=["greedy", "beams", "long", "penalised", "e2e"],
)
@pytest.mark.parametrize("family", often([one for one in FAMILIES if one != "granite"], ["llama", "gpt2"]))
def test_batches_write_what_generate_writes_row_by_row(model_of, tokenizer, family, given, theirs):
    model = model_of(family)
    job = job_of(model, tokenizer, data_of(), Decoding(max_new_tokens=12, **given))
    expected = alone(job, model, tokenizer, **({"max_new_tokens": 12} | (given if theirs is None else theirs)))
    assert len(set(expected.values())) > 3
    for size in (1, 3, 32):
        assert texts_of(job, model, tokenizer, size) == expected


@pytest.mark.parametrize("given", [{"no_repeat_ngram_size": 1}, {"repetition_penalty": 2.0}], ids=str)
def test_what_pads_a_batch_may_still_be_written(model_of, given):
    model, tokenizer = model_of("llama"), chat_tokenizer(None)
    job = job_of(model, tokenizer, data_of(), Decoding(max_new_tokens=12, **given))
    shortest = torch.tensor([min((one.ids for one in job.prompts), key=len)])
    first = model.generate(shortest, attention_mask=torch.ones_like(shortest), max_new_tokens=1, **given)[0, -1]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(int(first))
    assert texts_of(job, model, tokenizer, 32) == alone(job, model, tokenizer, max_new_tokens=12, **given)


def test_names_of_the_prompt_may_be_copied(model_of, tokenizer):
    model, given = model_of("llama"), dict(num_beams=4, no_repeat_ngram_size=1, max_new_tokens=12)
    job = job_of(model, tokenizer, data_of(), Decoding(rules="e2e", **given))
    found = texts_of(job, model, tokenizer, 8)
    assert found == alone(job, model, tokenizer, **E2E, of_the_written=1)
    theirs = texts_of(job_of(model, tokenizer, data_of(), Decoding(**given)), model, tokenizer, 8)
    copied = {made: 0 for made in ("ours", "theirs")}
    for one in job.prompts:
        names = {tokenizer.decode([token]).strip() for token in one.ids} - {""}
        copied["ours"] += sum(name in found[one.row] for name in names)
        copied["theirs"] += sum(name in theirs[one.row] for name in names)
    assert copied["ours"] > copied["theirs"]


def test_the_preset_is_the_papers(model_of):
    tokenizer = chat_tokenizer(None)
    tokenizer.add_tokens(["\n\n"])  # as in GPT-2's vocabulary, where it is 628
    job = job_of(model_of("gpt2"), tokenizer, data_of(["yes"]), Decoding(rules="e2e", max_new_tokens=20))
    made = job.decoding
    assert (made.num_beams, made.length_penalty, made.no_repeat_ngram_size, made.early_stopping, made.do_sample) == (
        10, 0.8, 4, "never", False,
    )  # fmt: skip
    assert Decoding(rules="e2e").settled({}, None).max_new_tokens == 64
    (blank,) = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    assert job.ends == {tokenizer.eos_token_id, blank}
    settings = Writer(model_of("gpt2"), tokenizer, job)._config
    assert settings.renormalize_logits and not settings.no_repeat_ngram_size  # ours bans, not Transformers' own


def test_a_text_ends_where_it_ends(tokenizer, model_of):
    job = job_of(model_of("gpt2"), tokenizer, data_of(["yes"]), Decoding(rules="e2e", max_new_tokens=20))
    plain = job_of(model_of("gpt2"), tokenizer, data_of(["yes"]), Decoding())
    ids = tokenizer(" the answer \n\n42</s>yes", add_special_tokens=False)["input_ids"]
    (prompt,) = job.prompts
    for one, text in ((job, "the answer"), (plain, " the answer \n\n42")):
        assert Writer(model_of("gpt2"), tokenizer, one)._text(prompt, ids) == text


# --- drawing --------------------------------------------------------------------------------------

DRAWN = dict(do_sample=True, temperature=0.8, top_k=6, top_p=0.9)


def test_tokens_are_drawn_with_the_probabilities_of_transformers(model_of, tokenizer):
    model, rows = model_of("llama"), 3000
    job = job_of(model, tokenizer, data_of(["what is the answer"] * rows), Decoding(max_new_tokens=1, **DRAWN))
    found = [line["text"] for some in lines_of(job, model, tokenizer, 500) for line in some]
    ids = torch.tensor([job.prompts[0].ids])
    theirs = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, output_scores=True, return_dict_in_generate=True,
        pad_token_id=tokenizer.pad_token_id, **DRAWN,
    )  # fmt: skip
    shares = torch.softmax(theirs.scores[0][0], -1)
    expected = {}
    for token in shares.nonzero()[:, 0].tolist():
        text = tokenizer.decode([token], skip_special_tokens=True)
        expected[text] = expected.get(text, 0.0) + float(shares[token])
    assert len(expected) > 2 and set(found) == set(expected)
    for text, share in expected.items():
        assert abs(found.count(text) / rows - share) < 4 * np.sqrt(share * (1 - share) / rows) + 1e-9


def test_a_row_draws_by_itself_whatever_is_in_its_batch(model_of, tokenizer):
    model = model_of("gpt2")

    def written(size, seed=0, sources=SOURCES):
        job = job_of(model, tokenizer, data_of(sources), Decoding(max_new_tokens=8, seed=seed, **DRAWN))
        return texts_of(job, model, tokenizer, size)

    whole = written(32)
    assert written(1) == written(3) == whole and written(3, seed=1) != whole
    assert whole[0] != whole[4]  # the same prompt in two rows
    assert written(2, sources=[*SOURCES[:3], "the user"])[1] == whole[1]


def test_numbers_are_spread_evenly_and_below_one():
    numbers = np.array([drawn(3, row, step) for row in range(100) for step in range(100)])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 45  # chi-square, 19 degrees


# --- stopped and started again --------------------------------------------------------------------


def into(path, job, model, tokenizer, size=3, overwrite=False):
    lines = RowLines(path, job.content(), overwrite=overwrite)
    made = []
    for some in lines_of(job, model, tokenizer, size, lines.rows):
        lines.add(some)
        made.append(some)
    lines.finish()
    return made


@pytest.mark.parametrize("given", often([{}, {"num_beams": 2}, DRAWN], [DRAWN]), ids=["greedy", "beams", "drawn"])
def test_stopped_anywhere_and_started_again_it_ends_in_the_same_file(model_of, tokenizer, tmp_path, given):
    model, path = model_of("llama"), tmp_path / "out.jsonl"
    data = data_of([*SOURCES, None, "yes what"])
    job = job_of(model, tokenizer, data, Decoding(max_new_tokens=6, **given))
    growing = b"".join(
        (json.dumps(line, ensure_ascii=False) + "\n").encode()
        for some in into(path, job, model, tokenizer)
        for line in some
    )
    whole = path.read_bytes()
    assert [json.loads(line)["row"] for line in whole.splitlines()] == list(range(10))
    assert json.loads(whole.splitlines()[8]) == {"row": 8, "text": "", "reason": "empty text"}
    edges = list(itertools.accumulate(len(line) for line in growing.splitlines(keepends=True)))
    for stop in sorted(
        {0, 1, len(growing) - 1, *edges, *(edge - 2 for edge in edges), *(edge + 3 for edge in edges[:-1])}
    ):
        path.write_bytes(growing[:stop])
        into(path, job, model, tokenizer)
        assert path.read_bytes() == whole, stop
    for stop in edges[::3]:  # of the finished file, in the order of the rows
        path.write_bytes(whole[:stop])
        into(path, job, model, tokenizer)
        assert path.read_bytes() == whole


def test_what_is_there_is_not_written_again(model_of, tokenizer, tmp_path, monkeypatch):
    model, path = model_of("llama"), tmp_path / "out.jsonl"
    job = job_of(model, tokenizer, data_of(), Decoding(max_new_tokens=4))
    made = into(path, job, model, tokenizer, size=2)
    calls = []
    plain = Writer.__call__
    monkeypatch.setattr(Writer, "__call__", lambda self, prompts: calls.append(len(prompts)) or plain(self, prompts))
    assert not into(path, job, model, tokenizer, size=2) and not calls
    rows = [line["row"] for line in made[-1]]
    path.write_text(
        "".join(line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["row"] not in rows)
    )
    into(path, job, model, tokenizer, size=2)
    assert len(calls) == 1
    assert sum(len(some) for some in made) == 8 and len({one.ids for one in job.prompts}) == 7  # "yes" once


def test_another_file_is_refused_and_begun_again_only_when_asked(model_of, tokenizer, tmp_path):
    model, path = model_of("llama"), tmp_path / "out.jsonl"
    job = job_of(model, tokenizer, data_of(), Decoding(max_new_tokens=4))
    into(path, job, model, tokenizer)
    whole = path.read_bytes()
    others = [
        job_of(model, tokenizer, data_of(), Decoding(max_new_tokens=5)),
        job_of(model, tokenizer, data_of(SOURCES[:-1]), Decoding(max_new_tokens=4)),
        job_of(model, tokenizer, data_of([*SOURCES[:-1], None]), Decoding(max_new_tokens=4)),
    ]
    for other in others:
        with pytest.raises(OutputError, match=r"out.jsonl was begun with other settings"):
            RowLines(path, other.content())
    assert path.read_bytes() == whole
    into(path, others[0], model, tokenizer, overwrite=True)
    assert path.read_bytes() != whole
    for content in ("not JSON\n", '{"text": "a"}\n', "[1]\n"):
        path.write_text(content)
        with pytest.raises(OutputError, match="line 1 was not written by this command"):
            RowLines(path, others[0].content())
    about_file(path).unlink()
    with pytest.raises(OutputError, match="was not begun by this command"):
        RowLines(path, others[0].content())
    assert path.read_text() == "[1]\n"


# --- what the checkpoint says, and what is refused ------------------------------------------------


def test_what_nobody_says_the_checkpoint_says_and_otherwise_the_likeliest_token_is_taken():
    plain = Decoding().settled({}, None)
    assert (plain.do_sample, plain.num_beams, plain.max_new_tokens, plain.temperature) == (False, 1, 256, None)
    assert Decoding().settled({}, 40).max_new_tokens == 40
    own = {"do_sample": True, "temperature": 0.5, "max_new_tokens": 99, "top_k": None, "num_beams": 1}
    made = Decoding(top_p=0.5, seed=3).settled(own, 70)
    assert (made.do_sample, made.temperature, made.top_p, made.top_k, made.max_new_tokens, made.seed) == (
        True, 0.5, 0.5, 50, 70, 3,
    )  # fmt: skip
    assert not Decoding(num_beams=2).settled(own, None).do_sample
    assert Decoding(do_sample=True).settled({"num_beams": 4}, None).num_beams == 1
    assert Decoding(seed=5).settled({}, None) == plain  # of no effect where nothing is drawn


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"), ({"num_beams": 0}, "num_beams"), ({"seed": -1}, "seed"),
        ({"temperature": 0.0}, "temperature"), ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"), ({"top_p": 1.5}, "top_p"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"), ({"length_penalty": float("inf")}, "length_penalty"),
        ({"do_sample": True, "num_beams": 2}, "do_sample"), ({"do_sample": True, "rules": "e2e"}, "do_sample"),
        ({"temperature": 0.5}, "temperature"), ({"top_p": 0.5}, "top_p"), ({"length_penalty": 2.0}, "length_penalty"),
        ({"early_stopping": True}, "early_stopping"), ({"max_new_tokens": 31}, "max_new_tokens"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_or_have_no_effect_are_refused(given, field):
    with pytest.raises(ConfigError) as refused:
        Decoding(**given).settled({}, 30)
    assert refused.value.field == field


def test_a_prompt_that_fills_the_models_positions_is_refused(model_of, tokenizer):
    data = data_of(["yes no what 42 " * 40])
    with pytest.raises(ConfigError, match="leaves 0 of the model's positions"):
        job_of(model_of("gpt2"), tokenizer, data, Decoding())
    job = job_of(model_of("gpt2"), tokenizer, data, Decoding(), max_length=60)
    assert job.decoding.max_new_tokens == 4 and len(job.prompts[0].ids) == 60


def test_a_model_that_gives_no_numbers_is_refused(tokenizer, model_of):
    model = hf.AutoModelForCausalLM.from_config(model_of("llama").config).eval()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    for given in ({}, {"num_beams": 2}, {"do_sample": True}):
        job = job_of(model, tokenizer, data_of(["yes"]), Decoding(max_new_tokens=2, **given))
        with pytest.raises(TrainingError, match="not finite"):
            list(lines_of(job, model, tokenizer))


def test_the_batch_size_must_be_one_or_more(tokenizer, model_of):
    with pytest.raises(ConfigError, match="batch size"):
        list(lines_of(Job((), {}, Decoding().settled({}, None)), model_of("llama"), tokenizer, 0))


@pytest.mark.parametrize("tuner", ["lora", "dora", "pissa", "adalora", "ia3", "adapter", "prefix"])
def test_what_a_tuner_adds_is_read_with_the_cache_as_without(tokenizer, tuner):
    torch.manual_seed(0)
    config = FAMILIES["llama"]()
    config.vocab_size = len(tokenizer)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    model.generation_config = hf.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    job = job_of(model, tokenizer, data_of(), Decoding(max_new_tokens=8))
    before = texts_of(job, model, tokenizer, 4)
    attached = catalog.build("tuner", Spec(tuner)).attach(find_layers(model), (1, 2), seed=0)
    with torch.no_grad():
        for parameter in attached.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.5)
    after = texts_of(job, model, tokenizer, 4)
    assert after != before
    assert after == alone(job, model, tokenizer, max_new_tokens=8, use_cache=False)
