"""Tiny random models that see, with a processor of their own, pictures, and conversations about them."""

# ruff: noqa: E501  (templates have long lines)

import json

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import AddedToken

from helpers.chats import chat_tokenizer

try:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
except ModuleNotFoundError:  # Transformers 5.0 has them under these names, and the ones with torchvision as "Fast"
    from transformers.models.clip.image_processing_clip import CLIPImageProcessor as CLIPImageProcessorPil
    from transformers.models.idefics3.image_processing_idefics3 import (
        Idefics3ImageProcessor as Idefics3ImageProcessorPil,
    )

LLAVA = """{% for m in messages %}{{ m.role | upper + ': ' }}{% for p in m.content | selectattr('type', 'equalto', 'image') %}\
{{ '<image>\n' }}{% endfor %}{% for p in m.content | selectattr('type', 'equalto', 'text') %}{{ p.text }}{% endfor %}\
{{ '</s>' if m.role == 'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""
IN_ORDER = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.content is string %}{{ m.content }}\
{% else %}{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}{% endif %}\
{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
TEXT = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
            max_position_embeddings=512)  # fmt: skip
EYES = dict(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24, image_size=16,
            patch_size=4)  # fmt: skip
FEW = {"height": 16, "width": 16}


def seeing_tokenizer(template, side="right"):
    """A tokenizer of bytes that knows `<image>` and the tokens around one."""
    tokenizer = chat_tokenizer(template, padding_side=side, model_max_length=512)
    words = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    words += [f"<row_{i}_col_{j}>" for i in range(1, 4) for j in range(1, 4)]
    tokenizer.add_tokens([AddedToken(one, special=True, normalized=False) for one in words], special_tokens=True)
    return tokenizer


def llava(side="right"):
    """LLaVA with CLIP and Llama: as many tokens for every image."""
    tokenizer = seeing_tokenizer(LLAVA, side)
    processor = hf.LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=FEW), tokenizer, patch_size=4,
        vision_feature_select_strategy="default", chat_template=LLAVA, num_additional_image_tokens=1,
    )  # fmt: skip
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**EYES), text_config=hf.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        image_token_id=processor.image_token_id, vision_feature_layer=-2,
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config), processor


def idefics3(side="right"):
    """Idefics 3: images are cut into pieces, so that they take more tokens the larger they are, of several kinds."""
    tokenizer = seeing_tokenizer(IN_ORDER, side)
    processor = hf.Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}), tokenizer,
        image_seq_len=4, chat_template=IN_ORDER,
    )  # fmt: skip
    config = hf.Idefics3Config(
        vision_config=EYES,
        text_config=hf.LlamaConfig(vocab_size=len(tokenizer), **TEXT), scale_factor=2,
        image_token_id=processor.image_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return hf.Idefics3ForConditionalGeneration(config), processor


FAMILIES = {"llava": llava, "idefics3": idefics3}


def seeing(family, side="right"):
    """A random model that sees, and its processor."""
    torch.manual_seed(0)
    model, processor = FAMILIES[family](side)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model.eval(), processor


def kept(folder, family="llava", side="right"):
    """A folder with both."""
    model, processor = seeing(family, side)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def picture(path, seed, size=(20, 24)):
    """A picture of noise; returns its path."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(noise).save(path)
    return str(path)


def asked(images, words="what is it?"):
    """A user's content: images, then words."""
    return [{"type": "image"}] * images + [{"type": "text", "text": words}]


def rows(folder, n=9, most=2):
    """Conversations with none, one or two pictures of different sizes, which are drawn into `folder/pictures`."""
    made = []
    for i in range(n):
        names = [f"pictures/{i}-{k}.png" for k in range(i % (most + 1))]
        for k, name in enumerate(names):
            picture(folder / name, 10 * i + k, (12 + 5 * i % 17, 30 - i))
        said = {"role": "assistant", "content": "yes " * (i % 3 + 1) + str(i)}
        made.append({"messages": [{"role": "user", "content": asked(len(names))}, said], "images": names})
    return made


def written(folder, every=None, name="train.jsonl"):
    """A file of them."""
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows(folder) if every is None else every)), encoding="utf-8")
    return str(path)


def as_processors_take_it(row, folder):
    """A row of `rows` with its pictures in their places, every content in parts."""
    pictures, messages = iter(row["images"]), []
    for one in row["messages"]:
        parts = [{"type": "text", "text": one["content"]}] if isinstance(one["content"], str) else one["content"]
        shown = [{**p, "path": str(folder / next(pictures))} if p["type"] == "image" else p for p in parts]
        messages.append({**one, "content": shown})
    return messages
