"""The table of names: whatever it holds is made again from its spec, and other packages can add to it."""

import dataclasses
import typing

import pytest

from wheretune import catalog
from wheretune.errors import ConfigError, WheretuneError
from wheretune.records.base import Spec, from_json, to_json

AXES = [axis for axis in catalog.ROWS if axis not in ("export", "recipe", "executor")]
EXAMPLES = {  # by annotation, values to try
    "int": (2, 5),
    "float": (0.25, 0.5),
    "bool": (True, False),
    "str": ("all-linear",),
    "Spec": (Spec("lora", {"r": 4}),),
    "tuple[int, ...]": ((1, 3),),
    "dict[str, str]": ({"0": "bad", "1": "good"},),
    "tuple[int": ((0, 2), ("encoder.0", "decoder.2")),
}


def values_of(annotation):
    """Some values that an annotation allows."""
    first = annotation.split(" | ")[0]
    if first.startswith("Literal["):
        return typing.get_args(eval(first, {"Literal": typing.Literal}))
    return EXAMPLES.get(first, ())


def settings_of(axis, name):
    """Several objects of one row: its defaults, and each field changed by itself."""
    made = catalog.find(axis, name)
    if name == "near":
        return [made(catalog.read("selector", inner), 0.02) for inner in ("highest:k=3", "block-lowest", "suffix")]
    if name == "upwards":
        return [made(catalog.read("selector", inner)) for inner in ("highest:k=3", "block-lowest", "suffix")]
    if name == "of-stack":
        return [made(catalog.read("selector", inner), "decoder") for inner in ("highest:k=3", "auto", "random")]
    found = []
    for field in (None, *dataclasses.fields(made)):
        for value in (None,) if field is None else values_of(field.type):
            try:
                found.append(made() if field is None else made(**{field.name: value}))
            except WheretuneError:  # a value that this row refuses
                continue
    return found


@pytest.mark.parametrize(("axis", "name"), [(axis, name) for axis in AXES for name in catalog.names(axis)])
def test_every_row_is_made_again_from_its_spec(axis, name):
    if not dataclasses.is_dataclass(catalog.find(axis, name)):
        assert catalog.find(axis, name).name == name
        return
    every = settings_of(axis, name)
    assert every, "no settings were tried"
    for thing in every:
        spec = Spec.of(thing)
        assert spec.name == name and catalog.build(axis, spec) == thing
        assert from_json(Spec, to_json(spec), "it") == spec  # also as a file has it
        assert catalog.build(axis, from_json(Spec, to_json(spec), "it")) == thing


def test_what_is_written_is_what_is_built():
    from wheretune.scorers.cka import CKA
    from wheretune.scorers.layer_probe import LayerProbe
    from wheretune.selectors.near import Near
    from wheretune.selectors.ranked import Lowest
    from wheretune.tuners.adapter import Adapter

    assert catalog.read("scorer", "cka:estimator=debiased") == CKA("debiased")
    assert catalog.read("selector", "near:selector=lowest:tolerance=0.1") == Near(Lowest(), 0.1)
    probe = catalog.read("scorer", "layer-probe:tuner=adapter:samples=48")
    assert probe == LayerProbe(tuner=Spec("adapter"), samples=48)
    assert catalog.build("tuner", LayerProbe(tuner=Adapter()).tuner) == Adapter()
    assert catalog.written("selector", "explicit:layers=1+3") == Spec("explicit", {"layers": (1, 3)})


@pytest.mark.parametrize(
    ("axis", "text", "said"),
    [
        ("scorer", "ckaa", "did you mean cka"),
        ("scorer", "cka:debiased", "has no value"),
        ("scorer", "cka:estimater=debiased", "did you mean estimator"),
        ("scorer", "cka:estimator=unbiased", "give biased or debiased"),
        ("selector", "highest:k=x", "give a whole number"),
        ("tuner", "full:embeddings=yes", "give true or false"),
        ("selector", "suffix:k=1", "it has none"),
    ],
)
def test_what_is_written_wrongly_is_refused_by_name(axis, text, said):
    with pytest.raises(ConfigError, match=said):
        catalog.read(axis, text)


@pytest.mark.parametrize(
    ("axis", "spec"),
    [
        ("selector", Spec("highest", {"k": "abc"})),
        ("selector", Spec("highest", {"k": [3]})),
        ("selector", Spec("highest", {"k": True})),
        ("selector", Spec("highest", {"ratio": "0.5"})),
        ("selector", Spec("explicit", {"layers": ["a"]})),
        ("selector", Spec("explicit", {"layers": 3})),
        ("selector", Spec("near", {"selector": "highest"})),
        ("selector", Spec("near", {})),
        ("selector", Spec("budget", {"of": "time"})),
        ("scorer", Spec("layer-probe", {"tuner": 3})),
        ("scorer", Spec("random", {"seed": None})),
        ("tuner", Spec("full", {"embeddings": 1})),
        ("tuner", Spec("full", {"unheard": 1})),
    ],
    ids=str,
)
def test_a_parameter_of_the_wrong_kind_in_a_file_is_refused_by_name(axis, spec):
    with pytest.raises(ConfigError, match=rf"the {axis} {spec.name}"):
        catalog.build(axis, spec)


def test_an_outsider_is_found_on_every_axis_and_cannot_replace_ours(tmp_path, monkeypatch, caplog):
    (tmp_path / "outsider.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Thing:\n"
        "    size: int = 1\n"
        "    name = 'outsider'\n"
    )
    info = tmp_path / "outsider-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1\n")
    lines = [
        f"[wheretune.{axis}s]\noutsider = outsider:Thing\nbroken = outsider:Missing\n"
        f"{next(iter(catalog.ROWS[axis]))} = outsider:Thing"
        for axis in AXES
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for axis in AXES:
        ours = next(iter(catalog.ROWS[axis]))
        caplog.clear()
        assert catalog.names(axis)[-1] == "outsider"
        assert "broken from the package of outsider:Missing cannot be loaded" in caplog.text
        assert catalog.read(axis, "outsider:size=3").size == 3
        assert catalog.find(axis, ours).__module__ != "outsider" and catalog.names(axis).count(ours) == 1
        with pytest.raises(ConfigError, match="did you mean outsider"):
            catalog.find(axis, "outsiders")
