"""Models as people have them: the transformer inside is found by structure, scored as the bare one, and tuned."""

import copy
import gc

import datasets
import pytest
import torch
import transformers
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn

import wheretune as wt
from helpers.models import tiny_model, tiny_tokenizer
from helpers.often import often
from helpers.own_models import own_model, train
from helpers.texts import sentences
from wheretune import catalog
from wheretune.errors import ModelError, PlanError
from wheretune.model.finding import find_layers
from wheretune.model.identity import tensor_hashes
from wheretune.records.base import Spec


class ByHand(nn.Module):
    """What people write: a transformer, a mean over its tokens, a linear map."""

    def __init__(self, base):
        super().__init__()
        self.encoder, self.out = base, nn.Linear(32, 2)

    def forward(self, input_ids, attention_mask, token_type_ids=None, labels=None):
        states = self.encoder(input_ids, attention_mask, token_type_ids).last_hidden_state
        weights = attention_mask.unsqueeze(-1).float()
        logits = self.out((states * weights).sum(1) / weights.sum(1))
        return {"logits": logits} | ({} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)})


class Sentences(nn.Sequential):
    """Built as a SentenceTransformer is: one dict goes through all parts, and the tokenizer comes along."""

    class Transformer(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.auto_model = base

        def forward(self, features):
            inputs = {name: features[name] for name in ("input_ids", "attention_mask")}
            return {**features, "token_embeddings": self.auto_model(**inputs)[0]}

    class Pooling(nn.Module):
        def forward(self, features):
            return {**features, "sentence_embedding": features["token_embeddings"].mean(1)}

    def __init__(self, base, tokenizer):
        super().__init__(self.Transformer(base), self.Pooling())
        self.tokenizer = tokenizer

    def forward(self, input, **kwargs):
        for part in self:
            input = part(input)
        return input


def peft(model, **changes):
    return get_peft_model(model, LoraConfig(r=2, target_modules=["query", "value"], **changes))


def in_place(model):
    model.base_model.compile(backend="eager")
    return model


WRAPPED = {
    "peft": lambda base, model, _: peft(model),
    "peft with a head of its own": lambda base, model, _: peft(model, task_type="SEQ_CLS"),
    "merged": lambda base, model, _: peft(model).merge_and_unload(),
    "by hand": lambda base, model, _: ByHand(base),
    "sentence transformer": lambda base, model, tokenizer: Sentences(base, tokenizer),
    "compiled": lambda base, model, _: torch.compile(model, backend="eager"),
    "compiled in place": lambda base, model, _: in_place(model),
    "data parallel": lambda base, model, _: nn.DataParallel(model),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_is_wrapped_is_scored_as_the_bare_model(kind):
    model, tokenizer = own_model()
    data = wt.from_texts(sentences(8), [i % 2 for i in range(8)])
    want = wt.score(model, tokenizer, data, wt.CosineCentrality())
    made = WRAPPED[kind](copy.deepcopy(model.base_model), copy.deepcopy(model), tokenizer)
    for _ in range(2):  # a compiled model must hear the hooks of the second time as well
        got = wt.score(made, tokenizer, data, wt.CosineCentrality())
        assert got.values == pytest.approx(want.values, abs=1e-5)
    assert [layer.parts.maps for layer in got.model.layers] == [layer.parts.maps for layer in want.model.layers]
    if "peft" not in kind:
        assert got.model.hash == want.model.hash


TRAINED = [
    (kind, tuner) for kind in ("peft", "peft with a head of its own", "by hand") for tuner in ("full", "adapter")
]


@pytest.mark.parametrize(("kind", "tuner"), often([*TRAINED, ("compiled", "full")], TRAINED))
def test_what_is_wrapped_trains_the_chosen_layers_and_what_is_read(kind, tuner, tmp_path):
    model, tokenizer = own_model()
    made = WRAPPED[kind](model.base_model, model, tokenizer)
    if kind == "compiled":
        made(**tokenizer("the good", return_tensors="pt"))  # so that something is compiled without our hooks
    data = wt.from_texts(sentences(8))
    scores = wt.score(made, tokenizer, data, wt.CosineCentrality())
    made_plan = wt.plan(scores, wt.Explicit((1, 3)), tuner=catalog.build("tuner", Spec(tuner)))
    tuned = wt.apply(made, made_plan)
    before = tensor_hashes(made.state_dict().items())
    train(made, tokenizer, tmp_path, remove_unused_columns=False)
    tuned.check()
    after = tensor_hashes(made.state_dict().items())
    changed = {name for name in after if after[name] != before[name]}
    parts = ("encoder.layer.1.", "encoder.layer.3.", "classifier.", "out.", *([] if kind == "by hand" else ["pooler."]))
    assert changed and all(any(part in name for part in parts) for name in changed)
    assert not any(part in name for name in tuned.trainable for part in ("original_module", "encoder.pooler"))


def test_a_sentence_transformer_is_tuned_without_its_pooler():
    base, tokenizer = tiny_model("bert")
    model = Sentences(base, tokenizer)
    scores = wt.score(model, None, wt.from_texts(sentences(8)), wt.CosineCentrality())
    tuned = wt.apply(model, wt.plan(scores, wt.Explicit((2,))))
    assert all(".encoder.layer.2." in name for name in tuned.trainable)
    optimizer = torch.optim.AdamW(tuned.trainable.values(), 1e-2)
    features = dict(tokenizer(sentences(4), return_tensors="pt", padding=True))
    model(features)["sentence_embedding"].square().sum().backward()
    assert all(parameter.grad is not None for parameter in tuned.trainable.values()), "DDP would wait for the rest"
    optimizer.step()
    tuned.check()


def test_a_bare_transformer_has_nothing_on_top():
    base, tokenizer = tiny_model("bert")
    scores = wt.score(base, tokenizer, wt.from_texts(sentences(8)), wt.CosineCentrality())
    assert all(
        name.startswith("encoder.layer.2.") for name in wt.apply(base, wt.plan(scores, wt.Explicit((2,)))).trainable
    )


def test_a_model_that_cannot_be_run_to_see_keeps_all_that_is_on_top():
    model = ByHand(tiny_model("bert")[0])
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    model.forward = lambda pixels: pixels
    scores = wt.score(model, tiny_tokenizer("bert"), wt.from_texts(sentences(8)), wt.CosineCentrality())
    tuned = wt.apply(model, wt.plan(scores, wt.Explicit((2,))))
    assert {"out.weight", "encoder.pooler.dense.weight"} < set(tuned.trainable)
    tuned.undo()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags


def test_several_transformers_are_told_apart_by_the_user():
    model = nn.ModuleDict({"query": tiny_model("bert")[0], "text": tiny_model("bert", seed=1)[0]})
    with pytest.raises(ModelError, match=r"holds 2 transformers \(query, text\); give one of them"):
        find_layers(model)


def test_a_prompt_before_the_text_is_refused():
    model = get_peft_model(own_model()[0], PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    with pytest.raises(ModelError, match="prompt"):
        find_layers(model)


def test_a_model_without_a_tokenizer_is_said():
    with pytest.raises(ModelError, match="no tokenizer"):
        wt.score(tiny_model("bert")[0], None, wt.from_texts(sentences(4)), wt.CosineCentrality())


def test_ddp_comes_after_the_plan(tmp_path):
    model, tokenizer = own_model()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        scores = wt.score(wrapped, tokenizer, wt.from_texts(sentences(8)), wt.CosineCentrality())
        plan = wt.plan(scores, wt.Explicit((1,)))
        with pytest.raises(PlanError, match="apply the plan first"):
            wt.apply(wrapped, plan)
        wt.apply(model, plan)
        wrapped = nn.parallel.DistributedDataParallel(model)
        batch = tokenizer(sentences(4), return_tensors="pt", padding=True)
        for _ in range(2):  # it complains in the second step of what got no gradient in the first
            wrapped(**batch, labels=torch.zeros(4, dtype=torch.long)).loss.backward()
    finally:
        wrapped = None  # or DDP's reducer is the last to hold the group, and waits for its threads with the GIL
        gc.collect()
        torch.distributed.destroy_process_group()


TASKS = {
    "tokens": (transformers.AutoModelForTokenClassification, "classifier."),
    "questions": (transformers.AutoModelForQuestionAnswering, "qa_outputs."),
    "masked": (transformers.AutoModelForMaskedLM, "cls.predictions.transform."),
}


def labelled(task, ids):
    """Rows as the task's own collator would make them."""
    if task == "questions":
        places = torch.ones(len(ids), dtype=torch.long)
        return {"start_positions": places, "end_positions": places}
    return {"labels": ids if task == "masked" else ids % 2}


@pytest.mark.parametrize("task", TASKS)
def test_other_heads_than_classifiers_in_an_unmodified_trainer(task, tmp_path):
    model, tokenizer = tiny_model("bert", kind=TASKS[task][0])
    scores = wt.score(model, tokenizer, wt.from_texts(sentences(8)), wt.CosineCentrality())
    tuned = wt.apply(model, wt.plan(scores, wt.Explicit((0, 2))))
    before = tensor_hashes(model.state_dict().items())
    batch = tokenizer(sentences(8), padding=True, return_tensors="pt")
    columns = {**batch, **labelled(task, batch["input_ids"])}
    rows = [{name: values[i] for name, values in columns.items()} for i in range(8)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, report_to="none", save_strategy="no", learning_rate=1e-3, disable_tqdm=True
    )
    transformers.Trainer(model, arguments, train_dataset=rows).train()
    tuned.check()
    after = tensor_hashes(model.state_dict().items())
    changed = {name for name in after if after[name] != before[name]}
    paths = ("bert.encoder.layer.0.", "bert.encoder.layer.2.", TASKS[task][1])
    assert all(name.startswith(paths) for name in changed)
    assert all(any(name.startswith(path) for name in changed) for path in paths)


@pytest.mark.slow
@pytest.mark.parametrize("tuner", [wt.WholeLayers(), wt.LoRA(r=4)], ids=lambda tuner: tuner.name)
def test_sentence_transformers_own_trainer_and_files(tuner, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    parts, losses = (pytest.importorskip(f"sentence_transformers.{name}") for name in ("models", "losses"))
    base, tokenizer = tiny_model("bert")
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    reader = parts.Transformer(str(tmp_path / "base"))
    model = library.SentenceTransformer(modules=[reader, parts.Pooling(32)], device="cpu")
    scores = wt.score(model, None, wt.from_texts(sentences(8)), wt.CosineCentrality())
    tuned = wt.apply(model, wt.plan(scores, wt.Explicit((1, 2)), tuner=tuner))
    arguments = library.SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), max_steps=3, learning_rate=1e-3, report_to="none", save_strategy="no"
    )
    pairs = datasets.Dataset.from_dict({"anchor": sentences(8), "positive": sentences(8)[::-1]})
    loss = losses.MultipleNegativesRankingLoss(model)
    library.SentenceTransformerTrainer(model, arguments, train_dataset=pairs, loss=loss).train()
    tuned.check()
    tuned.merge()
    model.save_pretrained(str(tmp_path / "saved"))
    again = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert again.encode(sentences(4)) == pytest.approx(model.encode(sentences(4)), abs=1e-6)
    assert not any("lora" in name for name in again.state_dict())
