"""Tiny random encoder-decoders, their tokenizers, and rows with a source and a target."""

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from helpers.models import WORDS

KINDS = ("t5", "bart")
ENCODER, DECODER = 2, 3  # layers


def tokenizer_of(kind, length=64):
    """A word a token; T5's ends a text, BART's begins and ends it."""
    special = ["<pad>", "</s>", "<unk>", "<s>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS, *(str(n) for n in range(10))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    single = "<s> $A </s>" if kind == "bart" else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B:1 </s>:1", special_tokens=[("<s>", 3), ("</s>", 1)]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=length,
        bos_token="<s>" if kind == "bart" else None, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def config_of(kind, vocabulary, decoder=DECODER):
    ends = dict(pad_token_id=0, eos_token_id=1)
    if kind == "t5":
        return hf.T5Config(
            vocab_size=vocabulary, d_model=32, d_ff=48, num_layers=ENCODER, num_decoder_layers=decoder, num_heads=4,
            d_kv=8, decoder_start_token_id=0, dropout_rate=0.0, **ends,
        )  # fmt: skip
    return hf.BartConfig(
        vocab_size=vocabulary, d_model=32, encoder_layers=ENCODER, decoder_layers=decoder, encoder_ffn_dim=48,
        decoder_ffn_dim=48, encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=64,
        bos_token_id=3, decoder_start_token_id=1, forced_eos_token_id=1, dropout=0.0, **ends,
    )  # fmt: skip


def model_of(kind, decoder=DECODER, seed=0, auto=hf.AutoModelForSeq2SeqLM):
    """A random model whose layers differ, with its tokenizer."""
    tokenizer = tokenizer_of(kind)
    torch.manual_seed(seed)
    model = auto.from_config(config_of(kind, len(tokenizer), decoder))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and (kind == "bart" or "layer." in name):
                parameter.mul_(3)
    return model.eval(), tokenizer


def saved(kind, folder, decoder=DECODER):
    """Its folder."""
    model, tokenizer = model_of(kind, decoder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(n=24, seed=0):
    """Sources of different lengths, and their words in reverse."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(n):
        count = int(torch.randint(2, 7, (1,), generator=generator))
        words = [WORDS[i] for i in torch.randperm(len(WORDS), generator=generator)[:count]]
        made.append({"source": " ".join(words), "target": " ".join(reversed(words))})
    return made
