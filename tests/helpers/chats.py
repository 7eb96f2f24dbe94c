"""Chat templates in the shapes that are in use, a tokenizer for them, and what is learned of a chat, by hand."""
# ruff: noqa: E501  (templates have long lines)

import random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
CHATML_MARKED = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}\
{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"""
CHATML_MARKED_TOO_FAR = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}\
{% generation %}{{ m.content + '<|im_end|>' + '\n' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' + '\n' }}\
{% endif %}{% endfor %}"""
SMOL = """{% for m in messages %}{% if loop.first and m.role != 'system' %}\
{{ '<|im_start|>system\nBe good.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA3 = """{% for m in messages %}{% set text = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' \
+ m.content | trim + '<|eot_id|>' %}{% if loop.first %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
MISTRAL = """{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{% if m.role == 'user' %}\
{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}\
{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate') }}{% endif %}\
{% set role = 'model' if m.role == 'assistant' else m.role %}{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
QWEN3 = """{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}\
{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% if tools %}{{ '<|im_start|>system\n# Tools\n' }}{% for t in tools %}{{ t | tojson + '\n' }}\
{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% for m in messages %}{% set content = m.content or '' %}\
{% if m.role == 'assistant' %}{% set thought = '' %}{% if m.reasoning_content %}{% set thought = m.reasoning_content %}\
{% elif '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}\
{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}\
{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\n' + thought + '\n</think>\n\n' + content }}\
{% else %}{{ content }}{% endif %}{% for call in m.tool_calls or [] %}{% set call = call.function or call %}\
{{ '\n<tool_call>\n{"name": "' + call.name + '", "arguments": ' + (call.arguments | tojson) + '}\n</tool_call>' }}\
{% endfor %}{{ '<|im_end|>\n' }}{% elif m.role == 'tool' %}{% if loop.previtem.role != 'tool' %}\
{{ '<|im_start|>user' }}{% endif %}{{ '\n<tool_response>\n' + content + '\n</tool_response>' }}\
{% if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}{% else %}\
{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

SHAPES = {
    "chatml": CHATML, "marked": CHATML_MARKED, "marked-too-far": CHATML_MARKED_TOO_FAR, "smol": SMOL,
    "llama3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "qwen3": QWEN3,
}  # fmt: skip
CONTROL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
           "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"]  # fmt: skip
WORDS = ["yes", "no", "what", "the answer", "assistant", "\n", "  ", "user", "🙂", "é", "日本", "42", "<|im_start",
         "[/INST]", "\n\n", "</", "model", "a", "¿?"]  # fmt: skip


def chat_tokenizer(template, **changes):
    """A byte-level BPE with the control tokens of every shape."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [" ".join(WORDS) * 3, "yes the answer is 42\n\nuser assistant model system " * 4, "hello there </think>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} | changes)
    )
    made.add_tokens([AddedToken(one, special=True, normalized=False) for one in CONTROL], special_tokens=True)
    made.add_tokens(
        [AddedToken(one, normalized=False) for one in ("<think>", "</think>", "<tool_call>", "</tool_call>")]
    )
    made.chat_template = template
    return made


def by_hand(shape, messages):
    """The text of a conversation in parts, each with whether it is learned, written without any template."""
    answer = [one["role"] == "assistant" for one in messages]
    parts = []
    last_user = max([i for i, one in enumerate(messages) if one["role"] == "user"], default=-1)
    if shape == "smol" and messages[0]["role"] != "system":
        parts.append(("<|im_start|>system\nBe good.<|im_end|>\n", False))
    if shape in ("llama3", "mistral", "gemma"):
        parts.append(("<s>", False))
    for i, (one, learned) in enumerate(zip(messages, answer, strict=True)):
        role, text = one["role"], one["content"]
        if shape == "llama3":
            parts += [
                (f"<|start_header_id|>{role}<|end_header_id|>\n\n", False),
                (text.strip() + "<|eot_id|>", learned),
            ]
        elif shape == "mistral":
            parts += [(" ", False), (text + "</s>", True)] if learned else [(f"[INST] {text} [/INST]", False)]
        elif shape == "gemma":
            role = "model" if learned else role
            parts += [(f"<start_of_turn>{role}\n", False), (text.strip() + "<end_of_turn>", learned), ("\n", False)]
        else:
            if shape == "qwen3" and learned:
                thought = ""
                if "</think>" in text:
                    thought = text.split("</think>")[0].split("<think>")[-1].strip("\n")
                    text = text.split("</think>")[-1].lstrip("\n")
                if i > last_user and (i == len(messages) - 1 or thought):
                    text = f"<think>\n{thought}\n</think>\n\n{text}"
            parts += [(f"<|im_start|>{role}\n", False), (text + "<|im_end|>", learned), ("\n", False)]
    return [part for part in parts if part[0]]


def marked_by_hand(tokenizer, parts):
    """The tokens of a text in parts, and whether each covers a character of a part that is learned."""
    text = "".join(part for part, _ in parts)
    letters = [learned for part, learned in parts for _ in part]
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    learned = [any(letters[start:stop]) for start, stop in made["offset_mapping"]]
    return made["input_ids"], [False, *learned[1:]]


def random_chat(seed, shape):
    """A conversation that a shape takes."""
    draw = random.Random(seed)

    def words():
        return "".join(draw.choice(["", " "]) + draw.choice(WORDS) for _ in range(draw.randint(0, 6)))

    messages = [] if shape in ("mistral", "gemma") or draw.random() < 0.5 else [{"role": "system", "content": words()}]
    for _ in range(draw.randint(1, 4)):
        said = words()
        answer = said if draw.random() < 0.3 else words()
        if shape == "qwen3" and draw.random() < 0.5:
            answer = f"<think>\n{words()}\n</think>\n\n{answer}"
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
        if shape not in ("mistral", "gemma") and draw.random() < 0.2:
            messages.append({"role": "assistant", "content": words()})
    if draw.random() < 0.2:
        messages.append({"role": "user", "content": words()})
    return messages
