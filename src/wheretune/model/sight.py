"""Models that see: which these are, what opens them, and their processors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wheretune.support.sight import give_processor
from wheretune.support.words import first_line

READS, WRITES, SEES = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText"


def sees(config: Any) -> bool:
    """Whether a model reads images beside text: its language model is one part of it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    text: Any = config.get_text_config()
    return text is not config and config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def opened_by(config: Any) -> str:
    """The class of Transformers that opens a language model with its output matrix, and its eyes where it has any."""
    if config.get_text_config().is_encoder_decoder:
        return WRITES
    return SEES if sees(config) else READS


def with_processor(tokenizer: Any, name: str, arguments: Mapping[str, Any]) -> Any:
    """The tokenizer of a model that sees, as part of the model's processor.

    Without one it reads text all the same; what is missing is said when an image comes.

    Args:
        tokenizer: The model's.
        name: The folder or hub name of the model.
        arguments: What `from_pretrained` is given besides.
    """
    from transformers import AutoProcessor

    try:
        auto: Any = AutoProcessor
        processor = auto.from_pretrained(name, trust_remote_code=False, **arguments)
        if not isinstance(getattr(processor, "image_token", None), str):
            raise ValueError("it has no token that stands for an image")
    except Exception as error:  # a file or a package (torchvision) that is missing, in whatever words
        give_processor(tokenizer, None, first_line(error))
        return tokenizer
    if isinstance(getattr(processor, "chat_template", None), str):
        tokenizer.chat_template = processor.chat_template
    processor.tokenizer = tokenizer
    give_processor(tokenizer, processor)
    return tokenizer
