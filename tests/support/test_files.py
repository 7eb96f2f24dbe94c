"""Files are whole or not there, and a folder belongs to one command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.commands import SOURCE
from wheretune.errors import OutputError
from wheretune.support.files import claim, sweep, taking, write, write_json, write_text


def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def fill(draft):
        draft.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, fill)
    assert json.loads(path.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_as_a_whole_and_leftovers_are_swept(tmp_path):
    def fill(draft):
        draft.mkdir()
        (draft / "new").write_text("1")
        assert not (tmp_path / "there").exists()

    write(tmp_path / "there", fill)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["new"]
    (tmp_path / ".there.partial-x1").mkdir()
    (tmp_path / ".hidden").mkdir()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"there", ".hidden"}


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "file" / "x.txt", "a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "y").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "folder", "a")


def test_killed_at_any_moment_the_file_is_whole(tmp_path):
    code = (
        "import sys, pathlib; from wheretune.support.files import write_text\n"
        "print('on', flush=True)\n"
        "while True:\n"
        "    for c in 'ab': write_text(pathlib.Path(sys.argv[1]), c * 2_000_000)"
    )
    path = tmp_path / "x"
    for pause in (0.01, 0.03, 0.05):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": SOURCE},
        )  # fmt: skip
        process.stdout.readline()
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        text = path.read_text()
        assert len(text) == 2_000_000 and len(set(text)) == 1


def test_whose_a_folder_is(tmp_path):
    folder = tmp_path / "run"

    def take(**flags):
        with taking(folder, ("mark", "done", "part-*"), "done", **{"resume": False, "overwrite": False} | flags):
            pass

    take()
    folder.mkdir()
    take()  # empty
    (folder / ".mark.partial-1").mkdir()  # killed while the marker was written
    take()
    (folder / "thesis.tex").write_text("years of work")
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError, match="not written by this command"):
            take(**flags)
    assert (folder / "thesis.tex").exists()
    (folder / "mark").write_text("{}")
    (folder / "part-1").mkdir()
    take()  # begun and not finished: goes on
    (folder / "done").write_text("")
    with pytest.raises(OutputError, match="finished run"):
        take()
    take(resume=True)
    take(overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]  # what is not ours stays


def test_a_folder_begun_in_vain_is_removed_but_not_one_with_something_in_it(tmp_path):
    for more in (False, True):
        folder = tmp_path / f"run-{more}"
        with pytest.raises(OutputError, match="x"), taking(folder, ("mark",), "done", resume=False, overwrite=False):
            write_text(folder / "mark", "{}")
            if more:
                write_text(folder / "scores.json", "{}")
            raise OutputError("x", "y")
        assert folder.exists() is more


def test_a_device_and_a_link_are_written_through(tmp_path):
    write_text(Path("/dev/null"), "a")
    assert not Path("/dev/null").is_file()
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_a_claim_names_what_differs(tmp_path):
    claim(tmp_path / "c.json", {"a": 1, "b": (2, 3)})
    claim(tmp_path / "c.json", {"a": 1, "b": [2, 3]})
    with pytest.raises(OutputError, match=r"other settings \(b: \[2, 3\] there, \[2, 4\] now\)"):
        claim(tmp_path / "c.json", {"a": 1, "b": [2, 4]})
