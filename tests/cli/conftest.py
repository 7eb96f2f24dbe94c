"""What the tests of the command line share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def first_scores() -> Path:
    """Scores that wheretune 0.1.0 wrote, of a model of two layers: a plan of them opens no model."""
    return Path(__file__).parents[1] / "fixtures" / "first_house" / "cosine-centrality.json"
