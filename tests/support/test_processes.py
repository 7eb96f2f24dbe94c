"""Which of several processes this one is."""

import pytest

from wheretune.errors import ConfigError, ProcessError
from wheretune.support import processes

NAMES = ("RANK", "WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_one_process_is_the_main_one_and_waits_for_nobody():
    assert (processes.rank(), processes.world_size(), processes.is_main()) == (0, 1, True)
    processes.join()
    processes.barrier()
    processes.check_one_process()
    processes.check_alike({"a": 1})
    assert (processes.part(), processes.writes(), processes.gathered(7)) == ((0, 1), True, [7])
    assert processes.from_first(lambda: 3) == 3


@pytest.mark.parametrize("prefix", ["RANK WORLD_SIZE", "PMI_RANK PMI_SIZE"])
def test_a_launcher_says_which_of_how_many(monkeypatch, prefix):
    for name, value in zip(prefix.split(), ("2", "4"), strict=True):
        monkeypatch.setenv(name, value)
    assert (processes.rank(), processes.world_size(), processes.is_main()) == (2, 4, False)
    assert (processes.part(), processes.writes()) == ((0, 1), True), "it has not joined the others"
    with pytest.raises(ConfigError, match="started as 4 processes, and several would do the same work; start one"):
        processes.check_one_process()


@pytest.mark.parametrize("prefix", ["", "MPI_LOCALRANKID MPI_LOCALNRANKS", "LOCAL_RANK LOCAL_WORLD_SIZE"])
def test_of_those_on_one_machine(monkeypatch, prefix):
    for name, value in zip(prefix.split(), ("1", "3"), strict=False):
        monkeypatch.setenv(name, value)
    assert (processes.local_rank(), processes.local_size()) == ((1, 3) if prefix else (0, 1))


@pytest.mark.parametrize(
    "said",
    [
        "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1",
        "Read error: Connection reset by peer",
    ],
)
def test_one_that_is_gone_is_told_from_a_defect(monkeypatch, said):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProcessError, match="another process of this run has ended"), processes.talking():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="shapes"), processes.talking():
        raise RuntimeError("shapes do not fit")
