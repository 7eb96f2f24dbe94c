"""TRL's own, unmodified SFTTrainer with the prefix cache has the losses and weights that it has without."""

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

import wheretune as wt
from helpers.language import TEMPLATE
from helpers.models import tiny_model, tiny_tokenizer
from helpers.texts import sentences
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe

pytestmark = pytest.mark.slow
FIRST = 2  # the lowest trained layer


def said(kind, n=14):
    """Rows in the shapes that SFTTrainer takes."""
    for number, text in enumerate(sentences(n, seed=2)):
        if kind == "text":
            yield {"text": text}
        elif kind == "prompt and completion":
            yield {"prompt": text, "completion": f" good {number}"}
        else:
            turns = [{"role": "user", "content": text}, {"role": "assistant", "content": f"good {number % 3}"}]
            yield {"messages": turns}


class Losses(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.seen.append(logs["loss"])


def trained(kind, tuner, cached, folder, **config):
    """What SFTTrainer ends with: its losses, what trained, which layers ran in training, and the cache's report."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = tiny_tokenizer("qwen2" if kind == "chat" else "llama")
    tokenizer.chat_template = TEMPLATE
    if tokenizer.eos_token is None:
        tokenizer.eos_token = "<sep>"
    base, _ = tiny_model("llama")
    base.config.vocab_size, base.config.max_position_embeddings = len(tokenizer), 256
    base.config.pad_token_id, base.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(base.config)
    tuned = wt.apply(model, wt.plan(describe(find_layers(model)), wt.Explicit((FIRST, 3)), tuner=tuner))
    losses, ran = Losses(), []
    for layer in tuned.stack.layers:
        layer.module.mlp.down_proj.register_forward_hook(lambda *_, index=layer.index: ran.append(index))
    arguments = SFTConfig(
        str(folder), num_train_epochs=2, per_device_train_batch_size=4, learning_rate=1e-3, report_to="none",
        bf16=False, save_strategy="no", disable_tqdm=True, logging_steps=1, use_cpu=True, seed=3, max_length=64,
        **config,
    )  # fmt: skip
    trainer = SFTTrainer(
        model, arguments, train_dataset=Dataset.from_list(list(said(kind))), processing_class=tokenizer,
        callbacks=[losses],
    )  # fmt: skip
    if not cached:
        trainer.train()
        report = None
    else:
        with wt.cache_prefix(model, trainer.train_dataset, trainer.data_collator, epochs=2, where="memory") as report:
            ran.clear()
            trainer.train()
    tuned.check()
    return losses.seen, {name: value.detach().clone() for name, value in tuned.trainable.items()}, ran, report


@pytest.mark.parametrize(
    ("kind", "tuner", "config"),
    [
        ("text", wt.LoRA(r=4), {}),
        ("prompt and completion", wt.WholeLayers(), dict(completion_only_loss=True)),
        ("chat", wt.WholeLayers(), dict(gradient_checkpointing=False, pad_to_multiple_of=8)),
    ],
    ids=["text", "completion", "chat"],
)
def test_cached_and_uncached_end_with_the_same_losses_and_weights(kind, tuner, config, tmp_path):
    losses, weights, every, _ = trained(kind, tuner, False, tmp_path, **config)
    found, fast, ran, report = trained(kind, tuner, True, tmp_path, **config)
    assert report.where == "memory", report.reason
    assert set(every) == {0, 1, 2, 3} and set(ran) == {2, 3}, "layers below ran while the cache was made, and no more"
    assert len(losses) == 8 and losses == pytest.approx(found, abs=1e-5)
    assert losses[0] != losses[-1] and weights.keys() == fast.keys()
    for name, value in weights.items():
        torch.testing.assert_close(fast[name], value, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_texts_that_are_packed_in_one_row_get_none(tmp_path):
    plain, *_ = trained("text", wt.WholeLayers(), False, tmp_path, packing=True, padding_free=True)
    found, _, ran, report = trained("text", wt.WholeLayers(), True, tmp_path, packing=True, padding_free=True)
    assert report.where == "off" and report.reason and set(ran) == {0, 1, 2, 3} and found == pytest.approx(plain)
