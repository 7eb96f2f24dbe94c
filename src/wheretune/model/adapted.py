"""A folder that holds a PEFT adapter alone: its model is the one below it, with the adapter merged into its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune.errors import ModelError
from wheretune.support.hub import adapter_settings, below_adapter, resolve
from wheretune.support.words import first_line

if TYPE_CHECKING:
    from torch import nn

    from wheretune.records.model import ModelSpec

TENSORS = "adapter_model.safetensors"
KINDS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}  # by the task that PEFT notes; AutoModel where it notes none


def merged(spec: ModelSpec, given: dict[str, Any], *, language: str | None = None) -> nn.Module:
    """The model below an adapter, with the adapter in its weights.

    Args:
        spec: Names the adapter's folder.
        given: How Transformers is to hold the model.
        language: It must be a language model's adapter; which class of Transformers opens that.

    Raises:
        ModelError: The model below cannot be opened, the adapter does not fit it or is one that cannot be merged, or
            the model is to be quantised.
    """
    import transformers
    from peft import PeftModel

    if spec.quantize is not None:
        raise ModelError(
            f"{spec.name} is a PEFT adapter, which is not merged into {spec.quantize} weights",
            "leave it out",
            "quantize",
        )
    kind = KINDS.get(adapter_settings(spec.name).get("task_type") or "", "AutoModel")
    if language is not None:
        wanted = KINDS["SEQ_2_SEQ_LM"] if language == KINDS["SEQ_2_SEQ_LM"] else KINDS["CAUSAL_LM"]
        if kind != wanted:
            raise ModelError(
                f"{spec.name} is no adapter of a language model that {language} opens", "give another scorer", "model"
            )
        kind = language
    base, revision = below_adapter(spec.name)
    labels = _labels(Path(spec.name)) if "Classification" in kind else {}
    try:
        below: Any = getattr(transformers, kind).from_pretrained(
            base, trust_remote_code=False, **resolve(base, revision), **labels, **given
        )
        adapted: Any = PeftModel.from_pretrained(below, spec.name)
        made: nn.Module = adapted.merge_and_unload()
    except ModelError:
        raise
    except Exception as error:  # whatever PEFT and Transformers say
        raise ModelError(
            f"cannot merge the PEFT adapter {spec.name} into {base}: {first_line(error)}",
            "merge it yourself (merge_and_unload) and give the folder of what comes out",
            "model",
        ) from error
    return made


def _labels(folder: Path) -> dict[str, int]:
    """How many labels the head has that was saved with an adapter."""
    from safetensors import safe_open

    with safe_open(folder / TENSORS, "pt") as file:
        heads = [name for name in file.keys() if name.endswith(".weight") and "lora_" not in name]  # noqa: SIM118
        shapes = [file.get_slice(name).get_shape() for name in heads]
    ends = [shape for shape in shapes if len(shape) == 2]
    return {"num_labels": ends[-1][0]} if ends else {}
