"""What lies in the folder of a saved delta; it is looked at without torch, so a wrong folder is refused quickly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wheretune.errors import DeltaError
from wheretune.records import older
from wheretune.records.base import from_json
from wheretune.records.model import ModelSpec
from wheretune.records.runs import Manifest
from wheretune.support.hub import resolve

TENSORS, ADAPTER, CARD, MANIFEST = "delta.safetensors", "adapter", "README.md", "wheretune.json"
PARTS = (TENSORS, f"{ADAPTER}/*", CARD, MANIFEST)
FORMATS = (1, 2)  # 1 is that of wheretune 0.1.0


def local_folder(folder: str | Path) -> Path:
    """The folder itself, or what the hub has under that name.

    Raises:
        ModelError: Neither is there.
    """
    path = Path(folder)
    if path.exists() or str(folder).count("/") != 1 or str(folder).startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download

    commit = resolve(str(folder)).get("revision")  # says in a few seconds whether the hub has it
    return Path(snapshot_download(str(folder), revision=commit, allow_patterns=list(PARTS)))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a saved delta as JSON, once the delta is seen to be whole.

    Raises:
        ConfigError: The manifest is damaged.
        DeltaError: The folder holds no finished delta, or its tensors are not those the manifest names.
    """
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        written, known = content["format"], content.get("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeltaError(
            f"{folder} holds no finished delta (no readable {MANIFEST})",
            "give the folder of a finished wheretune tune",
        ) from error
    if written not in FORMATS:
        raise DeltaError(f"{folder} has the format {written}", "use the wheretune that wrote it (we read 1 and 2)")
    path = folder / TENSORS
    if not path.is_file() or sha256(folder) != known:
        raise DeltaError(f"{path} is missing or was changed after it was saved", "tune again, or restore the file")
    if written == 2:
        from_json(Manifest, content, str(folder / MANIFEST))
    else:
        older.manifest(content, [], str(folder / MANIFEST))
    return content


def base_spec(content: Mapping[str, Any], folder: Path) -> ModelSpec:
    """How the base model of a manifest was opened.

    Args:
        content: From `read_manifest`.
        folder: Where it was read, for the message.

    Raises:
        ConfigError: It does not say.
    """
    model = content["plan"]["model"]
    spec = older.model_spec(model) if content["format"] == 1 else model["spec"]
    return from_json(ModelSpec, spec, str(folder / MANIFEST))


def sha256(folder: Path) -> str:
    """SHA-256 of the delta's tensors and, where there is one, of the adapter's files."""
    found = hashlib.sha256((folder / TENSORS).read_bytes())
    for path in sorted((folder / ADAPTER).glob("*"), key=lambda path: path.name):
        found.update(path.read_bytes())
    return found.hexdigest()
