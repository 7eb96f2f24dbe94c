"""Finding layers, the representative token, and what a model may not be."""

import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

import wheretune as wt
from helpers.models import FAMILIES, tiny_model, tiny_tokenizer
from wheretune.data.tokens import encode
from wheretune.errors import DataError, ModelError
from wheretune.model.finding import find_layers
from wheretune.model.freezing import head_parameters
from wheretune.model.identity import describe
from wheretune.model.inputs import max_tokens, representative_positions
from wheretune.model.opening import load_model, load_tokenizer
from wheretune.records.model import ModelSpec

SMALL = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, vocab_size=50)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_found_in_the_order_in_which_they_run(family):
    model, tokenizer = tiny_model(family)
    stack = find_layers(model)
    ran = []
    for layer in stack.layers:
        layer.module.register_forward_hook(lambda *_, index=layer.index: ran.append(index))
    model(**tokenizer("the good movie", return_tensors="pt"))
    assert ran == [0, 1, 2, 3]
    assert all(model.get_submodule(layer.path) is layer.module for layer in stack.layers)
    assert stack.causal is (family in ("gpt2", "llama", "qwen2"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_on_top_changes_neither_layers_nor_hash(family):
    base, _ = tiny_model(family)
    headed = AutoModelForSequenceClassification.from_config(base.config)
    headed.base_model.load_state_dict(base.state_dict(), strict=False)
    stack = find_layers(headed)
    assert [layer.path for layer in stack.layers] == [layer.path for layer in find_layers(base).layers]
    assert headed.get_submodule(stack.base_path) is stack.base
    assert describe(stack).hash == describe(find_layers(base)).hash
    top = sum(p.numel() for p in head_parameters(stack))
    assert top == sum(p.numel() for p in headed.parameters()) - sum(
        p.numel() for n, p in base.named_parameters() if not n.startswith("pooler")
    )


def test_the_output_matrix_of_a_language_model_is_no_head():
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"](50))
    assert head_parameters(find_layers(model)) == []


def test_the_hash_does_not_hang_on_the_precision_it_was_loaded_in():
    model, _ = tiny_model("bert")
    half = model.to(torch.bfloat16)
    found = describe(find_layers(half)).hash
    assert describe(find_layers(half.to(torch.float32))).hash == found


def test_a_hub_that_never_answers_is_given_up(monkeypatch):
    import time

    from wheretune.support import hub

    monkeypatch.setattr(hub, "HUB_SECONDS", 0.2)
    with pytest.raises(TimeoutError, match="no answer"):
        hub.ask_hub(lambda: time.sleep(5))
    assert hub.ask_hub(lambda: 7) == 7
    with pytest.raises(KeyError):
        hub.ask_hub(lambda: {}["x"])


def test_a_hub_model_is_pinned_to_its_commit(monkeypatch):
    import huggingface_hub

    from wheretune.support import hub

    class Hub:
        def model_info(self, name, revision=None, timeout=None):
            return type("Info", (), {"sha": f"commit-of-{revision or 'main'}"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert hub.resolve("somebody/pinned") == {"revision": "commit-of-main"}
    assert hub.resolve("somebody/pinned", "v1") == {"revision": "commit-of-v1"}


def test_one_changed_weight_changes_the_hash():
    model, _ = tiny_model("bert")
    before = describe(find_layers(model)).hash
    with torch.no_grad():
        model.encoder.layer[2].output.dense.bias[0] += 1e-3
    assert describe(find_layers(model)).hash != before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.AlbertConfig(embedding_size=8, **SMALL), r"no list of 3 layers .*albert_layer_groups with 1"),
        (transformers.XLMConfig(emb_dim=32, n_layers=3, n_heads=4, vocab_size=50), r"several lists \(attentions, "),
    ],
)
def test_models_that_cannot_be_read(config, message):
    with pytest.raises(ModelError, match=message):
        find_layers(AutoModel.from_config(config))


def test_layers_that_share_weights():
    model, _ = tiny_model("bert")
    model.encoder.layer[3] = model.encoder.layer[1]
    with pytest.raises(ModelError, match=r"layers 1 and 3 .*share"):
        find_layers(model)


def test_the_representative_position_comes_from_the_mask():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
    assert representative_positions(mask, causal=True).tolist() == [3, 2, 3]
    assert representative_positions(mask, causal=False).tolist() == [2, 0, 0]


def test_max_tokens():
    bert, roberta = tiny_model("bert")[0], tiny_model("roberta")[0]
    tokenizer = tiny_tokenizer("bert")
    tokenizer.model_max_length = 10**30
    assert max_tokens(bert, tokenizer, None) == 64
    assert max_tokens(roberta, tokenizer, None) == 65  # 66 positions, counted from behind padding index 0
    assert max_tokens(bert, tokenizer, 8) == 8
    with pytest.raises(ModelError, match="a length of 65"):
        max_tokens(bert, tokenizer, 65)


def test_a_text_as_long_as_max_tokens_fits():
    for family in FAMILIES:
        model, tokenizer = tiny_model(family)
        tokenizer.model_max_length = 10**30
        text = "good " * 100
        inputs = tokenizer(text, truncation=True, max_length=max_tokens(model, tokenizer, None), return_tensors="pt")
        assert torch.isfinite(model(**inputs)[0]).all()


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "somebody/no-such-model", ""])
def test_no_such_model(name):
    with pytest.raises(ModelError):
        load_model(ModelSpec(name))


def test_pickled_weights_are_not_opened(tmp_path):
    model, tokenizer = tiny_model("bert")
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights can run code and are not opened"):
        load_model(ModelSpec(str(tmp_path)))
    AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "safe")  # as the way out says
    assert len(find_layers(load_model(ModelSpec(str(tmp_path / "safe"))))) == 4


def test_a_folder_without_a_model(tmp_path, tiny_folder):
    with pytest.raises(ModelError, match="holds no config"):
        load_model(ModelSpec(str(tmp_path)))
    model, _ = tiny_model("bert")
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"half a fi")
    with pytest.raises(ModelError, match="cannot open the model"):
        load_model(ModelSpec(str(tmp_path)))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("what", ["pad", "word", "type"])
def test_a_token_without_an_embedding_is_named(family, what):
    model, tokenizer = tiny_model(family)
    texts = ["the good movie", "a bad and hot plot"]
    if what == "type":
        if family == "gpt2":  # makes no such ids
            return
        model.config.type_vocab_size = 1
        texts = [(text, "how good") for text in texts]
    elif what == "pad":
        tokenizer.add_special_tokens({"pad_token": "<new>"})
    else:
        tokenizer.add_tokens(["plot-twist"])
        texts[1] += " plot-twist"
    data = wt.from_texts(texts, [0, 1])
    for scorer in (wt.CosineCentrality(), wt.GradientNorm()):
        with pytest.raises(ModelError, match=r"embeddings for them: its vocabulary is smaller; .*resize"):
            wt.score(model, tokenizer, data, scorer)


@pytest.mark.parametrize(("family", "pair", "special"), [("bert", False, 2), ("bert", True, 3), ("gpt2", False, 0)])
def test_a_length_that_leaves_no_room_for_the_text(family, pair, special):
    tokenizer = tiny_tokenizer(family)
    data = wt.from_texts([("the good movie", "a bad plot")] * 2 if pair else ["the good movie"] * 2)
    for length in range(special + 1):
        with pytest.raises(
            DataError, match=f"a length of {length} leaves no room .*; give {special + 1} or more"
        ) as error:
            encode(data, tokenizer, length)
        assert error.value.field == "max_length"
    assert {len(row["input_ids"]) for row in encode(data, tokenizer, special + 1)} == {special + 1}


@pytest.mark.parametrize("given", ["bert-base-cased", tiny_tokenizer("bert")], ids=["name", "tokenizer"])
def test_what_is_no_model(given):
    with pytest.raises(ModelError, match=f"a {type(given).__name__} is no model; give what from_pretrained"):
        find_layers(given)
