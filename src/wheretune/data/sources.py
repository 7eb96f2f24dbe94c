"""What a source names: files, folders of splits, standard input and hub data sets -> rows."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wheretune.data.content import STANDARD_INPUT
from wheretune.data.files import known_ending, read_file
from wheretune.data.memory import rows_in
from wheretune.data.spooled import Row
from wheretune.errors import DataError
from wheretune.support.hub import HUB_SECONDS, ask_hub
from wheretune.support.words import first_line

SPLITS = {  # by split, the words that name it in files and folders, as Hugging Face's `datasets` has them
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
PLACE = re.compile(r"(?P<place>.+?)(?::(?P<config>[^:]*)(?::(?P<split>[^:\[]+(\[.*\])?))?)?")
Loaded = TypeVar("Loaded")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def read_source(source: str) -> list[tuple[str, Sequence[Row]]]:
    """The rows of each part of a source, with the part's name.

    Args:
        source: A file; several with commas; a pattern such as `data/*.parquet`; `-`, standard input; or, as
            `place:config:split`, a hub data set or a folder with files such as `train.jsonl` and `test.csv`. Config and
            split may be left out; the split is `train` then.

    Raises:
        DataError: It does not exist, cannot be read as what its ending says, or has no rows.
    """
    parts = [(name, _read(part)) for name, part in opened(source)]
    if not any(rows for _, rows in parts):
        raise DataError(f"{source} has no rows", "give a file with data")
    return parts


def opened(source: str) -> Iterator[tuple[str, Any]]:
    """The parts of a source before a row is read, with what messages call them.

    Args:
        source: As for `read_source`.

    Yields:
        The name of a file, a `HubData`, or a data set that `save_to_disk` of `datasets` wrote.

    Raises:
        DataError: A part does not exist.
    """
    for part in _parts(source):
        yield from _opened(part)


def located(source: str, *splits: str) -> str:
    """A source as it is found from elsewhere too: absolute paths, links kept, and the split said where one is needed.

    Args:
        source: As for `read_source`.
        splits: Which split is meant where it names none; of a folder, the first that is there.
    """
    return ",".join(_located(part, splits or ("train",)) for part in _parts(source))


@dataclass(frozen=True)
class HubData:
    """A data set of the hub."""

    name: str
    config: str
    split: str

    def load(self) -> Any:
        """All of it, prepared and cached."""
        from datasets import load_dataset

        return load_dataset(self.name, self.config or None, split=self.split)


def places(source: str) -> list[str | HubData]:
    """The files and hub data sets that a source names, one by one; `-` for standard input.

    Args:
        source: As `located` gives it.
    """
    found: list[str | HubData] = []
    for part in _parts(source):
        place, config, split = _place(part)
        if part == STANDARD_INPUT or (Path(part).exists() and not Path(part).is_dir()):
            found.append(part)
        elif matched := _matched(part):
            found += matched
        elif Path(place).is_dir():
            splits, named = _splits(Path(place) / (config or "")), _named(split or "train")
            found += splits.get(named, [place])
        else:
            found.append(HubData(place, config or "", split or "train"))
    return found


def _located(part: str, splits: tuple[str, ...]) -> str:
    path = Path(part)
    if part == STANDARD_INPUT:
        return part
    if (path.exists() and not path.is_dir()) or _matched(part):
        return str(path.absolute())
    place, config, split = _place(part)
    folder = Path(place)
    if folder.is_dir():
        split = split or next((one for one in splits if one in _splits(folder / (config or ""))), splits[0])
        return f"{folder.absolute()}:{config or ''}:{split}"
    return f"{place}:{config or ''}:{split or splits[0]}" if _may_be_on_hub(place) else part


def _parts(source: str) -> list[str]:
    if Path(source).exists() or "," not in source:
        return [source]
    return [part.strip() for part in source.split(",") if part.strip()]


def _opened(part: str) -> Iterator[tuple[str, Any]]:
    if part == STANDARD_INPUT or (Path(part).exists() and not Path(part).is_dir()):
        yield part, part
        return
    matched = _matched(part)
    if matched:
        yield from ((name, name) for name in matched)
        return
    if "://" in part:
        raise DataError(f"{part} is an address, and files and hub data sets are read", "download it first")
    place, config, split = _place(part)
    if Path(place).is_dir():
        yield from _open_folder(Path(place) / (config or ""), split or "train")
    elif _may_be_on_hub(place):
        yield part, HubData(place, config or "", split or "train")
    else:
        what = "no file matches" if glob.has_magic(part) else "no such file:"
        raise DataError(f"{what} {part}", "check the path, or name a hub data set as name:config:split")


def _read(part: Any) -> Sequence[Row]:
    """The rows of a part."""
    if isinstance(part, str):
        return read_file(part)
    return rows_in(from_hub(part, part.load) if isinstance(part, HubData) else part)


def _matched(part: str) -> list[str]:
    """The files that a pattern matches, in order."""
    if not glob.has_magic(part):
        return []
    names = glob.glob(part, recursive=True)  # noqa: PTH207  (a pattern may be absolute)
    return sorted(name for name in names if not Path(name).is_dir())


def _place(part: str) -> tuple[str, str | None, str | None]:
    found = None if Path(part).is_dir() else PLACE.fullmatch(part)
    return (part, None, None) if found is None else (found["place"], found["config"], found["split"])


def _may_be_on_hub(place: str) -> bool:
    return HUB_NAME.fullmatch(place) is not None and not known_ending(place) and not place.startswith(".")


# --- folders -------------------------------------------------------------------------------------


def _splits(folder: Path) -> dict[str, list[str]]:
    """The files of a folder by split; files whose path names none are for training, if no file's path does."""
    files = [path for path in sorted(folder.rglob("*")) if known_ending(path.name) and path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    found: dict[str, list[str]] = {}
    for path in files:
        words = re.split(r"[^a-z]+", str(path.relative_to(folder)).lower())
        split = next((split for split, names in SPLITS.items() if any(name in words for name in names)), None)
        if split is not None:
            found.setdefault(split, []).append(str(path))
    return found or ({"train": [str(path) for path in files]} if files else {})


def _open_folder(folder: Path, split: str) -> Iterator[tuple[str, Any]]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        yield str(folder), _open_saved(folder, split)
        return
    splits = _splits(folder)
    named = _named(split)
    if named not in splits:
        there = f"its splits: {', '.join(splits)}" if splits else "it holds no file that can be read"
        raise DataError(f"the folder {folder} has no split {split} ({there})", "name a split, or the file itself")
    yield from ((name, name) for name in splits[named])


def _named(split: str) -> str:
    """A split by the first of its names."""
    return next((one for one, names in SPLITS.items() if split in names), split)


def _open_saved(folder: Path, split: str) -> Any:
    """What `save_to_disk` of `datasets` wrote."""
    from datasets import DatasetDict, load_from_disk

    loaded = load_from_disk(str(folder))
    if isinstance(loaded, DatasetDict) and split not in loaded:
        raise DataError(f"{folder} has no split {split} (its splits: {', '.join(loaded)})", "name one of them")
    return loaded[split] if isinstance(loaded, DatasetDict) else loaded


# --- the hub -------------------------------------------------------------------------------------


def from_hub(data: HubData, load: Callable[[], Loaded]) -> Loaded:
    """What `load` opens of a data set of the hub; where the hub does not answer, what is cached will do.

    Raises:
        DataError: It opens nothing.
    """
    from huggingface_hub import HfApi

    try:
        ask_hub(lambda: HfApi().dataset_info(data.name, timeout=HUB_SECONDS))
        silent = None
    except Exception as error:
        silent = error
    try:
        with _offline() if silent else nullcontext():
            return load()
    except Exception as error:
        raise DataError(
            f"no file or folder {data.name!r} here, and the hub does not give the data set "
            f"{data.name}:{data.config}:{data.split} "
            f"({first_line(silent or error)})",
            "check the name and the network, or give a local file",
        ) from error


@contextmanager
def _offline() -> Iterator[None]:
    """Has `datasets` look in its cache alone: asked over a broken network, it would wait for minutes."""
    from datasets import config

    settings: Any = config
    before, settings.HF_HUB_OFFLINE = settings.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        settings.HF_HUB_OFFLINE = before
