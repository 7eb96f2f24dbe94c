"""Tiny random models of both kinds, with tokenizers of their own."""

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedTokenizerFast, Qwen2Tokenizer

WORDS = """the a of and to in is it that was for on with as his they be at one have this from or had by hot but some
what there we can out other were all your when up use word how said an each she good bad movie plot who where why"""
WORDS = WORDS.split()


SIZES = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64)


FAMILIES = {
    "bert": lambda v: transformers.BertConfig(vocab_size=v, max_position_embeddings=64, **SIZES),
    "roberta": lambda v: transformers.RobertaConfig(vocab_size=v, max_position_embeddings=66, pad_token_id=0, **SIZES),
    "gpt2": lambda v: transformers.GPT2Config(vocab_size=v, n_embd=32, n_layer=4, n_head=4, n_positions=64),
    "llama": lambda v: transformers.LlamaConfig(vocab_size=v, max_position_embeddings=64, **SIZES),
    "qwen2": lambda v: transformers.Qwen2Config(
        vocab_size=v, max_position_embeddings=64, num_key_value_heads=2, **SIZES
    ),
}


ENCODERS = ("bert", "roberta")


def tiny_tokenizer(family: str, side: str = "right"):
    if family == "qwen2":  # AutoTokenizer rebuilds a saved tokenizer in its model's own class: one token a byte
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *letters])}
        return Qwen2Tokenizer(vocab=vocabulary, merges=[], padding_side=side, model_max_length=64)
    special = ["<pad>", "<unk>", "<cls>", "<sep>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS, *(str(n) for n in range(10))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>"}
    if family in ENCODERS:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<cls> $A <sep>", pair="<cls> $A <sep> $B:1 <sep>:1", special_tokens=[("<cls>", 2), ("<sep>", 3)]
        )
        names |= {"cls_token": "<cls>", "sep_token": "<sep>"}
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if family == "bert" else [])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side=side, model_input_names=inputs, model_max_length=64, **names
    )


def tiny_model(family: str, side: str = "right", seed: int = 0, kind=AutoModel, **changes):
    """A random model whose states differ enough between layers for orders to be told apart."""
    tokenizer = tiny_tokenizer(family, side)
    config = FAMILIES[family](len(tokenizer))
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(seed)
    model = kind.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model.eval(), tokenizer
