"""What a language model says: from the states that leave its base model to logits, the model's own way.

Between the two, families scale (Cohere, Granite, T5), cap (Gemma 2) or add a bias (GPT-J, BART). None of that is known
here: the model's own `forward` runs, and something that puts out given states stands where its base model was, or the
decoder of an encoder-decoder. Whether that gives what the whole model gives is seen once, on four tokens.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import nn
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

from wheretune.errors import ModelError
from wheretune.model.forward import evaluating
from wheretune.model.inputs import accepted
from wheretune.model.two_stacks import run, written_before

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.stack import LayerStack

ROOM = 0.01  # how far what is said by standing in may be from what the whole model says, of its length


class Speech:
    """What a language model puts on top of its base model; the model is left as it was.

    Args:
        stack: The layers of a language model.

    Raises:
        ModelError: The model has no output matrix, is an encoder, or does something on top that cannot be run alone.
    """

    def __init__(self, stack: LayerStack) -> None:
        output = getattr(stack.model, "get_output_embeddings", lambda: None)()
        name = type(stack.model).__name__
        self._apart = bool(stack.split)
        if not stack.causal and not self._apart:
            raise ModelError(
                f"{name} is an encoder, which predicts no next token", "give a causal language model", "model"
            )
        if output is None or (stack.model is stack.base and not self._apart):
            kind = "Seq2SeqLM" if self._apart else "CausalLM"
            raise ModelError(f"{name} has no output matrix", f"open it with AutoModelFor{kind}", "model")
        self.output: nn.Module = output
        self._language: nn.Module = stack.model
        path, _, self._name = stack.base_path.rpartition(".")
        self._holder = stack.model.get_submodule(path)
        self._base = stack.base
        if self._apart:
            self._holder, self._name = stack.base, "decoder"
        self._spoken: nn.Module = self._holder.get_submodule(self._name)
        if self.matrix.device.type != "meta":
            self._check(stack)

    @property
    def matrix(self) -> nn.Parameter:
        """The output matrix, (token, hidden)."""
        weight: Any = self.output.weight
        found: nn.Parameter = weight
        return found

    @property
    def tied(self) -> bool:
        """Whether the embeddings are the output matrix too."""
        return any(parameter is self.matrix for parameter in self._base.parameters())

    def logits(self, states: Float[Tensor, "place hidden"]) -> Float[Tensor, "place token"]:
        """What follows each place, by the states that leave the base model there."""
        mixed = states.dtype != self.matrix.dtype  # one of them is held in fp32 while it trains
        ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        with torch.autocast(states.device.type, torch.bfloat16) if mixed else nullcontext():
            self._holder._modules[self._name] = _StandIn(self._spoken, states.unsqueeze(0))
            try:
                found: Tensor = self._language(**self._asking(ids, states)).logits[0]
            finally:
                self._holder._modules[self._name] = self._spoken
        return found

    def _asking(self, ids: Int[Tensor, "1 place"], states: Float[Tensor, "place hidden"]) -> dict[str, Any]:
        """What the language model is given beside the states that stand in: no encoder need run."""
        if not self._apart:
            return {"input_ids": ids}
        seen = BaseModelOutput(last_hidden_state=states[None, :1].detach())
        return {"encoder_outputs": seen, "decoder_input_ids": ids, "use_cache": False}

    def _check(self, stack: LayerStack) -> None:
        ids = torch.arange(4, device=self.matrix.device).unsqueeze(0)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        wrong = ""
        with torch.no_grad(), evaluating(stack.model):
            beside = {"decoder_input_ids": written_before(self._base, ids)} if self._apart else {}
            whole = self._language(**given, **beside).logits[0].float()
            try:
                last = run(self._base, given) if self._apart else self._base(**accepted(self._base, given))[0]
                apart = self.logits(last[0]).float() - whole
                wrong = "" if bool(apart.norm() <= ROOM * whole.norm()) else "gives other logits"
            except (RuntimeError, AttributeError, TypeError, ValueError, IndexError) as error:
                wrong = f"cannot be run ({error})"
        if wrong:
            raise ModelError(
                f"what {type(stack.model).__name__} puts on top of its base model {wrong} without the base model",
                "report this with the name of the model",
                "model",
            )


class _StandIn(nn.Module):
    """Stands in for a base model, and for the parts of it that a language model calls itself: gives states."""

    def __init__(self, base: nn.Module, states: Tensor) -> None:
        super().__init__()
        self.__dict__["_stands_for"] = base  # no module of this one
        self.__dict__["_states"] = states

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["_stands_for"], name)
        return self if isinstance(found, nn.Module) else found

    def forward(self, *args: Any, **kwargs: Any) -> _States:
        return _States(last_hidden_state=self.__dict__["_states"])


class _States(BaseModelOutputWithPastAndCrossAttentions):
    """States alone; whatever else a family looks for beside them is None."""

    def __getattr__(self, name: str) -> None:
        return None
