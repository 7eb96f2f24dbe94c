"""What the Hugging Face hub has under a name, asked briefly and pinned to a commit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from wheretune.errors import ModelError
from wheretune.support.words import first_line

Answer = TypeVar("Answer")
ADAPTER_CONFIG = "adapter_config.json"
HUB_SECONDS = 6.0  # how long the hub may take to say whether it has a model


def ask_hub(question: Callable[[], Answer]) -> Answer:
    """What the hub answers, or an error after a few seconds, whatever the network does.

    Raises:
        Exception: What `question` raises, or TimeoutError.
    """
    answers: list[Answer] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            answers.append(question())
        except Exception as error:
            errors.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # a name server that never answers must not hold us
    asking.start()
    asking.join(HUB_SECONDS)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer in {HUB_SECONDS:g} seconds")
    return answers[0]


@cache
def resolve(name: str, revision: str | None = None) -> Mapping[str, Any]:
    """The keyword arguments with which `from_pretrained` opens `name` without a surprise.

    A local folder never touches the network. A hub name is asked for once, briefly, and pinned to the commit it has
    now; where the hub does not answer, what is cached will do.

    Raises:
        ModelError: No such folder, and no such model on the hub (or no network to ask it).
    """
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ModelError(
                f"the folder {name} holds no config.json",
                "give the folder that save_pretrained wrote",
            )
        return {"local_files_only": True}
    if Path(name).is_file():
        raise ModelError(f"{name} is a file", "give the folder that it is in", "model")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise ModelError(f"no such model folder: {name!r}", "check the path", "model")
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        commit = ask_hub(lambda: HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS).sha)
    except Exception as error:
        try:
            cached = try_to_load_from_cache(name, "config.json", revision=revision)
        except ValueError:  # no name that the hub could have
            cached = None
        if isinstance(cached, str):
            return {"local_files_only": True, "revision": Path(cached).parent.name}
        raise ModelError(
            f"no folder {name!r} here, and the hub does not give a model of that name ({first_line(error)})",
            "check the name and the network, or give a local folder",
        ) from error
    return {"revision": commit}


def layers_said(name: str) -> int | None:
    """How many layers the config.json of a local model says there are, so that a number can be refused early.

    None where it is not local, or where more than one stack of layers may count.
    """
    try:
        config = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        found = [config[key] for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if key in config]
        return found[0] if found and isinstance(found[0], int) and not config.get("is_encoder_decoder") else None
    except (OSError, ValueError, AttributeError):
        return None


# --- a PEFT adapter in the place of a model ---------------------------------------------------------


def is_adapter(name: str) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (Path(name) / ADAPTER_CONFIG).is_file() and not (Path(name) / "config.json").is_file()


def below_adapter(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """The model that an adapter was made for, and its revision; of all else what was given.

    Raises:
        ModelError: The adapter does not say.
    """
    if not is_adapter(name):
        return name, revision
    base = adapter_settings(name).get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"the PEFT adapter in {name} does not say which model it was made for",
            "write it into adapter_config.json (base_model_name_or_path), or merge the adapter and save that",
            "model",
        )
    return str(base), adapter_settings(name).get("revision")


def adapter_settings(name: str) -> dict[str, Any]:
    """What PEFT wrote down of an adapter."""
    try:
        found: dict[str, Any] = json.loads((Path(name) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {name}/{ADAPTER_CONFIG} ({error})", "save the adapter again", "model") from error
    return found
