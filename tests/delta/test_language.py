"""A tuned language model is kept, opened, judged and merged; PEFT and Transformers open what lies there alone."""

import json
from itertools import product

import pytest
import torch
import transformers as hf
from peft import PeftModel
from safetensors.torch import load_file

from helpers.families import TUNERS
from helpers.language import chats, kept, plain_loss
from helpers.often import often
from wheretune import pipeline
from wheretune.delta.merging import merge
from wheretune.delta.opening import open_finetuned
from wheretune.errors import ConfigError, MergeError, ModelError
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.runs import CacheSettings, RunSpec, TrainSettings
from wheretune.session import Session
from wheretune.tasks.base import task_of
from wheretune.tasks.loading import load_data

CHAT = Spec("chat")


def run_of(model, path, tuner="full", session=None, **changes):
    data = DataSpec(chats(path / "chats.jsonl"), CHAT, max_length=96)
    given = dict(
        model=ModelSpec(model), train=data, test=data, selector=Spec("top", {"k": 2}),
        tuner=Spec.of(TUNERS[tuner]), settings=TrainSettings(epochs=2, learning_rate=0.01, batch_size=4),
    )  # fmt: skip
    spec = RunSpec(**given | changes)
    return pipeline.tune(spec, path / "run", session=session, cache=CacheSettings("memory")), data


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def close(one, other):
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "tuner"),
    often(
        product(("qwen2", "llama", "gemma2"), ("full", "lora", "pissa", "adalora")),
        [("llama", "full"), ("qwen2", "lora"), ("gemma2", "full"), ("llama", "adalora")],
    ),
)
def test_all_the_way_round(tmp_path, family, tuner):
    base = kept(tmp_path / "base", family)
    result, data = run_of(base, tmp_path, tuner)
    assert "the tokens before those that are learned" in result.saved["last layer"]
    names = set(load_file(tmp_path / "run" / "delta.safetensors"))
    assert not any("lm_head" in name or "embed" in name for name in names) and (tuner == "full") == bool(names)

    tuned = open_finetuned(tmp_path / "run")
    ids = torch.arange(3, 40).unsqueeze(0)
    expected = logits(tuned.model.language, ids)
    assert not torch.allclose(expected, logits(hf.AutoModelForCausalLM.from_pretrained(base), ids), atol=1e-2)
    rows = task_of(tuned.data).encode(load_data(data), tuned.tokenizer, 96)
    metrics = {one.name: one.value for one in result.metrics["test"]}
    assert metrics["loss"] == pytest.approx(plain_loss(tuned.model.language, rows), rel=1e-4)
    assert metrics["perplexity"] == pytest.approx(torch.tensor(metrics["loss"]).exp().item(), rel=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions-test.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(16))
    assert lines[3]["predicted"] == pytest.approx(plain_loss(tuned.model.language, rows[3:4]), rel=1e-4)

    adapter = tmp_path / "run" / "adapter"
    assert adapter.is_dir() == (tuner != "full")
    if adapter.is_dir():
        assert json.loads((adapter / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
        plain = hf.AutoModelForCausalLM.from_pretrained(base)
        close(logits(PeftModel.from_pretrained(plain, str(adapter)), ids), expected)

    assert merge(tuned, tmp_path / "merged") == "AutoModelForCausalLM"
    merged = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    close(logits(merged, ids), expected)
    assert merged.generation_config.max_new_tokens == 7
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == tuned.tokenizer.chat_template


@pytest.mark.slow
def test_gradient_accumulation_is_one_big_batch(tmp_path):
    base, session = kept(tmp_path / "base"), Session()
    results = []
    for name, size, steps in (("whole", 16, 1), ("parts", 4, 4)):
        (tmp_path / name).mkdir()
        settings = TrainSettings(epochs=2, learning_rate=0.01, batch_size=size, gradient_accumulation_steps=steps)
        results.append(run_of(base, tmp_path / name, session=session, settings=settings)[0])
    whole, parts = (result.metrics["test"][0].value for result in results)
    assert results[0].steps == results[1].steps == 2
    assert parts == pytest.approx(whole, rel=1e-4)


@pytest.mark.slow
def test_in_bf16_what_trains_has_fp32_masters(tmp_path):
    losses = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        (tmp_path / name).mkdir()
        base = kept(tmp_path / name / "base", dtype=dtype)
        losses[name] = run_of(base, tmp_path / name)[0].metrics["test"][0].value
        held = {value.dtype for value in load_file(tmp_path / name / "run" / "delta.safetensors").values()}
        assert held == {torch.float32}
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_an_output_matrix_that_trains_is_kept_and_merged(tmp_path):
    base = kept(tmp_path / "base", dtype=torch.bfloat16)
    run_of(base, tmp_path, head=Spec("lm", {"train": True}))
    tensors = load_file(tmp_path / "run" / "delta.safetensors")
    assert tensors["language.lm_head.weight"].dtype == torch.float32
    tuned = open_finetuned(tmp_path / "run")
    torch.testing.assert_close(tuned.model.language.lm_head.weight.data, tensors["language.lm_head.weight"])
    assert merge(tuned, tmp_path / "merged") == "AutoModelForCausalLM"
    merged = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16
    close(merged.lm_head.weight.float(), tensors["language.lm_head.weight"].bfloat16().float())


def test_a_template_that_was_given_goes_with_the_merged_model(tmp_path):
    data = DataSpec(chats(tmp_path / "chats.jsonl"), Spec("chat", {"chat_template": "plain"}), max_length=96)
    run_of(kept(tmp_path / "base"), tmp_path, train=data, test=None)
    merge(open_finetuned(tmp_path / "run"), tmp_path / "merged")
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "merged")
    said = tokenizer.apply_chat_template([{"role": "user", "content": "why"}], tokenize=False)
    assert said.endswith("User: why\n")


@pytest.mark.slow
def test_a_tuner_that_no_plain_checkpoint_can_hold_does_not_merge(tmp_path):
    run_of(kept(tmp_path / "base"), tmp_path, "adapter")
    tuned = open_finetuned(tmp_path / "run")
    with pytest.raises(MergeError):
        merge(tuned, tmp_path / "merged")


def test_what_cannot_learn_to_speak_is_refused(tmp_path):
    base = kept(tmp_path / "base")
    headless = hf.AutoModel.from_pretrained(base)
    headless.save_pretrained(tmp_path / "headless")
    hf.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelError, match=r"lacks lm_head\.weight"):
        run_of(str(tmp_path / "headless"), tmp_path)
    tied = kept(tmp_path / "tied", "llama")
    with pytest.raises(ConfigError, match="embeddings too"):
        run_of(tied, tmp_path, head=Spec("lm", {"train": True}))
    with pytest.raises(ConfigError, match="concat reads one token per text, and chat needs every one"):
        run_of(base, tmp_path, head=Spec("concat"))
