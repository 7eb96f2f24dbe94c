"""Tiny random language models of several families, rows that teach some of their tokens, and what learns them."""

import json
from functools import cache

import torch
import transformers as hf

from helpers.models import tiny_tokenizer
from wheretune.data.batches import language_collator
from wheretune.heads.lm import LM
from wheretune.model.finding import find_layers

SIZES = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, vocab_size=120)
TEXT = dict(SIZES, max_position_embeddings=64)
GROUPED = dict(TEXT, num_key_value_heads=2)
GPT = dict(vocab_size=120, n_embd=32, n_layer=4, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0,
           attn_pdrop=0.0, bos_token_id=1, eos_token_id=2)  # fmt: skip

FAMILIES = {
    "llama": lambda: hf.LlamaConfig(tie_word_embeddings=True, **GROUPED),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "gpt2": lambda: hf.GPT2Config(**GPT),
    "gemma2": lambda: hf.Gemma2Config(head_dim=8, final_logit_softcapping=2.0, **GROUPED),
    "cohere": lambda: hf.CohereConfig(logit_scale=0.3, bos_token_id=1, eos_token_id=2, **GROUPED),
    "granite": lambda: hf.GraniteConfig(logits_scaling=3.0, **GROUPED),
    "gptj": lambda: hf.GPTJConfig(rotary_dim=4, **GPT),
    "opt": lambda: hf.OPTConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=16,
        max_position_embeddings=64, dropout=0.0,
    ),
    "neox": lambda: hf.GPTNeoXConfig(bos_token_id=1, eos_token_id=2, **TEXT),
    "mixtral": lambda: hf.MixtralConfig(num_local_experts=4, num_experts_per_tok=2, **GROUPED),
}  # fmt: skip


class Tokenizer:
    """As much of a tokenizer as a collator of token ids asks for."""

    pad_token_id = 0

    def __init__(self, side="right"):
        self.padding_side = side


class Learning:
    """A task that learns every token that is labelled."""

    name, places = "learning", "every"

    def loss(self, logits, labels):
        return torch.nn.functional.cross_entropy(logits, labels)


@cache
def weights(family):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[family]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model.config, {name: value.clone() for name, value in model.state_dict().items()}


def speaker(family):
    """A language model with the weights that its family has throughout the tests."""
    config, state = weights(family)
    model = hf.AutoModelForCausalLM.from_config(config)
    model.load_state_dict(state)
    return model.eval()


def speaking(family, train=False):
    """The same, with its own output matrix on top of it as a head."""
    return LM(train).on(find_layers(speaker(family)), 1, Learning(), 0).eval()


def conversations(n=9, seed=0, most=30):
    """Encoded rows of different lengths, of which one or two stretches are learned; never the first token."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    rows = []
    for row in range(n):
        length = draw(6, most)
        ids = [draw(3, 120) for _ in range(length)]
        labels = [-100] * length
        for _ in range(draw(1, 3)):
            start = draw(1, length - 1)
            for place in range(start, min(length, start + draw(1, 6))):
                labels[place] = ids[place]
        rows.append({"input_ids": ids, "attention_mask": [1] * length, "labels": labels, "row": row})
    return rows


def batch(rows=None, side="right"):
    return language_collator(Tokenizer(side))(conversations() if rows is None else rows)


def outcome(model, given, **more):
    """The loss, and every gradient by name."""
    model.zero_grad()
    loss = model(**given, **more).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(one, other, atol=1e-5):
    torch.testing.assert_close(one[0], other[0], atol=atol, rtol=1e-5)
    assert one[1].keys() == other[1].keys() and one[1]
    for name in one[1]:
        torch.testing.assert_close(
            one[1][name], other[1][name], atol=atol, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def kept(folder, family="qwen2", dtype=None, **changes):
    """A folder with a language model, a tokenizer of bytes with a chat template, and settings for generation."""
    tokenizer = tiny_tokenizer("qwen2")
    tokenizer.chat_template, tokenizer.model_max_length = TEMPLATE, 128
    config = FAMILIES[family]()
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 128
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.generation_config = hf.GenerationConfig(max_new_tokens=7, do_sample=True, temperature=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def chats(path, n=16):
    """A file of conversations."""
    lines = []
    for i in range(n):
        asked, said = "how is it? " * (i % 3 + 1), "good " * (i % 4 + 1) + str(i)
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        lines.append(json.dumps({"messages": turns * (1 + i % 2)}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def plain_loss(model, rows):
    """-log p per learned token, by Transformers' own loss, row by row."""
    lost, tokens = 0.0, 0
    for row in rows:
        ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
        learned = int((labels[:, 1:] >= 0).sum())
        with torch.no_grad():
            lost += float(model(input_ids=ids, labels=labels).loss) * learned
        tokens += learned
    return lost / tokens
