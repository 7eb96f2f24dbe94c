"""Files as wheretune 0.1.0 wrote them, in today's words.

Its scores hold all that today's do, under other names. Its plans named the chosen layers alone, so they cannot be made
whole without the model: `delta.opening`, which opens the model anyway, can; all others refuse them by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wheretune.errors import ConfigError

COLUMNS = ("text_column", "pair_column", "label_column", "target_column", "verbalizer")
READ_AS = {"pooling": "pooling", "last_state": "last", "standardised": "standardise"}


def scores(content: Any, origin: str) -> Any:
    """Scores of 0.1.0 in today's layout; anything else as it is.

    Raises:
        ConfigError: They look like scores of 0.1.0, and a part is missing.
    """
    if not isinstance(content, dict) or "format" in content or not isinstance(content.get("model"), dict):
        return content
    try:
        layers = [_parted(layer) for layer in content["layers"]]
        params = dict(content["scorer"]["params"])
        spec = content["data"]["spec"]
        reading = {new: params[old] for old, new in READ_AS.items() if old in params}
        return {
            **content,
            "scorer": _without_reading(content["scorer"]),
            "model": model(content["model"], [info for info, _ in layers]),
            "data": data(content["data"]),
            "reading": {**reading, "seed": spec["seed"], "max_length": spec["max_length"]},
            "layers": [score for _, score in layers],
            "format": 2,
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{origin} is no LayerScores of wheretune 0.1.0 ({error!r})", "score again") from error


def model(content: Mapping[str, Any], layers: list[dict[str, Any]]) -> dict[str, Any]:
    """A model of 0.1.0 in today's layout."""
    kept = {key: content[key] for key in ("hash", "hidden_size", "parameters", "causal")}
    return {"spec": model_spec(content), "layers": layers, "prefix": content.get("prefix", ""), **kept}


def model_spec(content: Mapping[str, Any]) -> dict[str, Any]:
    """How a model of 0.1.0 was opened; what it was held in did not stand there, and was fp32."""
    spec = {"name": content["name"], "revision": content["revision"], "dtype": "fp32"}
    return spec | {"layers_attribute": content.get("layers_attribute"), "quantize": content.get("quantize")}


def data(content: Mapping[str, Any]) -> dict[str, Any]:
    """Data of 0.1.0 in today's layout: columns and verbaliser have become the task's."""
    spec = content["spec"]
    params = {name: spec[name] for name in COLUMNS if spec.get(name) is not None}
    return {
        "spec": {
            "source": spec["source"],
            "task": {"name": spec["task"], "params": params},
            **{name: spec[name] for name in ("max_samples", "max_length", "seed")},
        },
        "rows": content["rows"],
        "task": {"name": content["task"], "params": params},
        "classes": content["classes"],
        "hash": content["hash"],
    }


def manifest(content: Mapping[str, Any], layers: list[dict[str, Any]], origin: str) -> dict[str, Any]:
    """The manifest of a delta of 0.1.0 in today's layout.

    Args:
        content: The manifest.
        layers: All layers of its base model, which was opened: `LayerInfo` as JSON.
        origin: Where it was read, for the message.

    Raises:
        ConfigError: A part is missing.
    """
    try:
        read = None if content["data"] is None else data(content["data"])
        kept = {"max_length": content["max_length"], "sha256": content["sha256"]}
        return {"format": 2, "plan": plan(content["plan"], layers), "data": read, **kept}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{origin} is no Manifest of wheretune 0.1.0 ({error!r})", "tune again") from error


def plan(content: Mapping[str, Any], layers: list[dict[str, Any]]) -> dict[str, Any]:
    """A plan of 0.1.0 in today's layout, given all layers of its model."""
    cost: dict[str, Any] = {
        "limit": None,
        "tokens": 128.0,
        "texts": 0,
        "batch_size": 16,
        "epochs": 3,
        "lines": [],
        "measured": None,
    }
    kept = {key: content[key] for key in ("layers", "tuner", "head", "schedule", "scores_digest")}
    return kept | {
        "selector": _selector(content["selector"]),
        "model": model(content["model"], layers),
        "cost": cost | {key: value for key, value in content["cost"].items() if value is not None},
        "scorer": None if content.get("scorer") is None else _without_reading(content["scorer"]),
        "chosen": [_parted(layer)[1] for layer in content.get("chosen", [])],
        "confidence": content.get("confidence"),
        "reason": content.get("reason"),
        "format": 2,
    }


def _selector(spec: Mapping[str, Any]) -> dict[str, Any]:
    """That near-equal scores give way was a parameter of the selector, and is a selector around it."""
    params = dict(spec["params"])
    near = params.pop("near", None)
    inner = {"name": spec["name"], "params": params}
    return inner if near is None else {"name": "near", "params": {"selector": inner, "tolerance": near}}


def _without_reading(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A scorer without the parameters that say how the texts were read."""
    return {"name": spec["name"], "params": {key: v for key, v in spec["params"].items() if key not in READ_AS}}


def _parted(layer: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a layer is, and how it scored: one record in 0.1.0."""
    info = {key: layer[key] for key in ("index", "path", "parameters")} | {"parts": layer.get("parts", {})}
    return info, {key: layer[key] for key in ("index", "score", "std", "excluded")}
