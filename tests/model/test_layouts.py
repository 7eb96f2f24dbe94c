"""Families whose layers put out other shapes than (text, token, width): right, or refused."""

import pytest
import torch
import transformers

from helpers.models import tiny_tokenizer
from wheretune.errors import ModelError
from wheretune.heads.concat import Concat
from wheretune.heads.headed import HeadedModel
from wheretune.model.finding import find_layers
from wheretune.model.forward import forward_states
from wheretune.tasks.classification import Classification

SIZES = dict(vocab_size=80, n_layer=3, n_head=4)
MODELS = {
    "xlnet": lambda: transformers.XLNetModel(transformers.XLNetConfig(d_model=32, d_inner=64, **SIZES)),
    "openai-gpt": lambda: transformers.OpenAIGPTModel(transformers.OpenAIGPTConfig(n_embd=32, n_positions=64, **SIZES)),
}
TEXTS = ["the good movie plot", "a bad plot was", "of all we were", "how good it was", "some other time there"]


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


@pytest.mark.parametrize("texts", [4, 5], ids=["as many texts as tokens", "more texts than tokens"])
def test_the_states_are_those_that_the_model_itself_gives(model, texts):
    batch = tiny_tokenizer("gpt2")(TEXTS[:texts], return_tensors="pt")
    with torch.no_grad():
        found = forward_states(find_layers(model), dict(batch))[0]
        want = [
            torch.stack(
                [
                    state[0, -1]
                    for state in model(
                        **tiny_tokenizer("gpt2")(text, return_tensors="pt"), output_hidden_states=True
                    ).hidden_states
                ]
            )
            for text in TEXTS[:texts]
        ]
    assert torch.allclose(found[:, 1:], torch.stack(want)[:, 1:], atol=1e-5)


def test_a_head_on_all_layers_reads_the_same_in_any_batch(model):
    head = HeadedModel(find_layers(model), Concat(), 2, Classification(), seed=0).eval()
    tokenizer = tiny_tokenizer("gpt2")
    with torch.no_grad():
        together = head(**tokenizer(TEXTS[:4], return_tensors="pt")).logits
        alone = [head(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS[:4]]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_states_without_texts_are_refused(model):
    stack = find_layers(model)
    stack.layers[0].module.register_forward_pre_hook(lambda _, args: (args[0].flatten(0, 1)[None, None], *args[1:]))
    with pytest.raises(ModelError, match="holds states of shape"):
        forward_states(stack, dict(tiny_tokenizer("gpt2")(TEXTS, return_tensors="pt")))
