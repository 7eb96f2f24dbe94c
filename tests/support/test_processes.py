"""Which of several processes this one is."""

import pytest

from wheretune.errors import ConfigError
from wheretune.support import processes

NAMES = ("RANK", "WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_one_process_is_the_main_one_and_waits_for_nobody():
    assert (processes.rank(), processes.world_size(), processes.is_main()) == (0, 1, True)
    processes.barrier()
    processes.check_one_process()


@pytest.mark.parametrize("prefix", ["RANK WORLD_SIZE", "PMI_RANK PMI_SIZE"])
def test_a_launcher_says_which_of_how_many(monkeypatch, prefix):
    for name, value in zip(prefix.split(), ("2", "4"), strict=True):
        monkeypatch.setenv(name, value)
    assert (processes.rank(), processes.world_size(), processes.is_main()) == (2, 4, False)
    with pytest.raises(ConfigError, match="started as 4 processes; start one process"):
        processes.check_one_process()
