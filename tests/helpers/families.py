"""The families and the tuners of the battery."""

from functools import cache

import torch
import transformers as hf
from torch import nn

import wheretune as wt
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe

SIZES = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, vocab_size=50)


TEXT = dict(SIZES, max_position_embeddings=32)


GROUPED = dict(TEXT, num_key_value_heads=2)


PLACES = dict(relative_attention=True, pos_att_type=["c2p", "p2c"])


SPECIAL = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)


FAMILIES = {
    "bert": lambda: hf.BertConfig(**TEXT),  # MiniLM is a BERT
    "roberta": lambda: hf.RobertaConfig(**TEXT),
    "xlm-r": lambda: hf.XLMRobertaConfig(**TEXT),
    "electra": lambda: hf.ElectraConfig(embedding_size=16, **TEXT),
    "deberta": lambda: hf.DebertaConfig(**PLACES, **TEXT),
    "deberta-v2": lambda: hf.DebertaV2Config(**PLACES, **TEXT),
    "distilbert": lambda: hf.DistilBertConfig(dim=32, n_layers=4, n_heads=4, hidden_dim=48, vocab_size=50),
    "mpnet": lambda: hf.MPNetConfig(**TEXT),
    "modernbert": lambda: hf.ModernBertConfig(**TEXT, **SPECIAL, cls_token_id=1, sep_token_id=2),
    "gpt2": lambda: hf.GPT2Config(n_embd=32, n_layer=4, n_head=4, vocab_size=50, n_positions=32, **SPECIAL),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**TEXT, **SPECIAL),
    "opt": lambda: hf.OPTConfig(ffn_dim=48, word_embed_proj_dim=32, **{k: v for k, v in TEXT.items() if k[0] != "i"}),
    "llama": lambda: hf.LlamaConfig(**GROUPED),  # TinyLlama is a Llama
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "qwen3": lambda: hf.Qwen3Config(head_dim=8, **GROUPED),
    "gemma": lambda: hf.GemmaConfig(head_dim=16, **GROUPED),
    "gemma2": lambda: hf.Gemma2Config(head_dim=16, **GROUPED),
    "mistral": lambda: hf.MistralConfig(**GROUPED),
    "phi": lambda: hf.PhiConfig(**TEXT, **SPECIAL),
    "t5": lambda: hf.T5Config(
        d_model=32, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4, d_kv=8, vocab_size=50,
        decoder_start_token_id=0,
    ),
    "bart": lambda: hf.BartConfig(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=50, max_position_embeddings=32, **SPECIAL,
    ),
    "llava": lambda: hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, image_size=16,
            patch_size=8,
        ),
        text_config=hf.LlamaConfig(**GROUPED),
    ),
}  # fmt: skip


TUNERS = {
    "full": wt.WholeLayers(),
    "lora": wt.LoRA(r=4, alpha=8),
    "lora-all-linear": wt.LoRA(r=2, alpha=2, targets="all-linear"),
    "pissa": wt.PiSSA(r=4),
    "dora": wt.DoRA(r=4),
    "adalora": wt.AdaLoRA(r=2, start=4),
    "ia3": wt.IA3(),
    "adapter": wt.Adapter(reduction=4),
    "pfeiffer": wt.Adapter(reduction=4, place="pfeiffer"),
    "prefix": wt.Prefix(length=3),
    "bias": wt.Bias(),
}


NO_BIASES = ("modernbert", "llama", "qwen3", "gemma", "gemma2", "mistral", "t5", "llava")


def pairs(*families):
    """Each family with each tuner that has something to attach to in it."""
    return [(one, tuner) for one in families for tuner in TUNERS if tuner != "bias" or one not in NO_BIASES]


CHOSEN = (1, 2)


@cache
def weights(family):
    torch.manual_seed(0)
    model = hf.AutoModel.from_config(FAMILIES[family]())
    return model.config, {name: value.clone() for name, value in model.state_dict().items()}


def tiny(family):
    """A fresh model with the weights that its family has throughout this file, and dropout that is off."""
    config, state = weights(family)
    with torch.device("meta"):
        model = hf.AutoModel.from_config(config)
    if any(True for _ in model.buffers()):  # what is computed and not saved must be computed anew
        model = hf.AutoModel.from_config(config)
    model.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if isinstance(getattr(model, "pooler", None), nn.Module):  # no head here reads it, and load_model leaves it out
        model.pooler = None
    return model.eval()


def planned(model, tuner, layers=CHOSEN):
    return wt.plan(describe(find_layers(model)), wt.Explicit(layers), tuner=tuner)
