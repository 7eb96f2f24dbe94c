"""Records that have grown a field: what was written before it was there stays what it was."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from wheretune import catalog
from wheretune.records.base import LATER, Spec, from_json, record, renewed, to_json
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.runs import RunSpec
from wheretune.records.scores import load_scores
from wheretune.support.files import digest

OLD = Path(__file__).parents[1] / "fixtures" / "first_house"


@record
class Inner:
    names: tuple[str, ...] = field(default_factory=tuple, metadata=LATER)
    wide: int = 2


@record
class Grown:
    inner: Inner
    new: float | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class Thing:
    old: int = 1
    new: int = field(default=3, metadata=LATER)
    name: ClassVar[str] = "thing"


def test_a_later_field_at_its_default_is_not_written():
    assert to_json(Grown(Inner())) == {"inner": {"wide": 2}}
    assert from_json(Grown, {"inner": {"wide": 2}}, "x") == Grown(Inner())
    said = Grown(Inner(("a",)), 0.5)
    assert to_json(said) == {"inner": {"names": ["a"], "wide": 2}, "new": 0.5}
    assert from_json(Grown, to_json(said), "x") == said
    assert Spec.of(Thing()) == Spec("thing", {"old": 1}) and Spec.of(Thing(new=4)).params == {"old": 1, "new": 4}


def test_digests_are_those_that_were_written_when_these_records_were_first_digested():
    """Where this fails a record has grown a field that is not marked: `field(default=..., metadata=LATER)`."""
    (scores,) = load_scores(OLD / "cosine-centrality.json")
    assert scores.digest == "f24e8de4fa94af949ba074462748a1cb00299871a686150b493b1fa85b7b9010"
    probe = Spec.of(catalog.build("scorer", Spec("layer-probe")))
    assert digest(to_json(probe)).startswith("5287e1f4")  # where a layer probe goes on


def test_what_an_earlier_version_wrote_means_the_defaults_where_it_does_not_say():
    now = RunSpec(ModelSpec("m"), DataSpec("d"))
    full = to_json(now) | {"model_hash": "x"}
    earlier = {"model": {"name": "m"}, "train": {"source": "d", "seed": 0}, "settings": {}, "model_hash": "x"}
    assert renewed(now, earlier) == full == renewed(now, full)
    assert renewed(now, {**earlier, "model": {"name": "m", "dtype": "bf16"}})["model"]["dtype"] == "bf16"
    needed = renewed(now, {"settings": {"epochs": 9}})  # what must be said, and is not: as it is now
    assert (needed["train"], needed["settings"]["epochs"]) == (full["train"], 9)
    unreadable = {"model": {"name": "m", "colour": "red"}}
    assert renewed(now, unreadable) == unreadable
