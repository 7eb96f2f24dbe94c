"""A delta on the hub."""

from __future__ import annotations

from pathlib import Path

from wheretune.delta.folder import PARTS, read_manifest


def push_to_hub(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Uploads a delta and its card to the hub, where `open_finetuned` and `load_delta` find it by its name.

    Args:
        folder: From `save_delta` or `wheretune tune`; only what belongs to the delta is uploaded.
        repository: `owner/name`; made if it is not there.
        private: If the repository is made, only its owner can see it.

    Returns:
        The address of the upload.

    Raises:
        DeltaError: The folder holds no finished delta.
    """
    from huggingface_hub import HfApi

    read_manifest(Path(folder))
    hub = HfApi()
    hub.create_repo(repository, private=private, exist_ok=True)
    return str(hub.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=list(PARTS)))
