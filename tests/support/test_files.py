"""Files are whole or not there, and a folder belongs to one command."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.commands import SOURCE
from wheretune.errors import OutputError
from wheretune.support.files import claim, claimed, sweep, taking, write, write_json, write_text


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
        with taking(folder, ("mark", "done", "part-*"), **{"overwrite": False} | flags):
            pass

    take()
    folder.mkdir()
    take()  # empty
    (folder / ".mark.partial-1").mkdir()  # killed while the marker was written
    take()
    (folder / "thesis.tex").write_text("years of work")
    for flags in ({}, {"overwrite": True}):
        with pytest.raises(OutputError, match="not written by this command"):
            take(**flags)
    assert (folder / "thesis.tex").exists()
    (folder / "mark").write_text("{}")
    (folder / "part-1").mkdir()
    take()  # begun and not finished: goes on
    (folder / "done").write_text("")
    take()  # and a finished one stays
    assert (folder / "done").exists() and (folder / "part-1").exists()
    take(overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]  # what is not ours stays


def test_a_folder_begun_in_vain_is_removed_but_not_one_with_something_in_it(tmp_path):
    for more in (False, True):
        folder = tmp_path / f"run-{more}"
        with pytest.raises(OutputError, match="x"), taking(folder, ("mark",), overwrite=False):
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


def failing(monkeypatch, name, number, folders=False):
    """Lets a call of the system fail as some file systems do, for folders alone or for all."""
    real = getattr(os, name)

    def call(target, *given, **more):
        mode = (os.fstat(target) if isinstance(target, int) else Path(target).stat()).st_mode
        if stat.S_ISDIR(mode) or not folders:
            raise OSError(number, os.strerror(number))
        return real(target, *given, **more)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize(
    ("name", "number", "folders"),
    [
        ("fsync", errno.EINVAL, True), ("fsync", errno.EACCES, True), ("fsync", errno.ENOTSUP, False),
        ("open", errno.EACCES, True), ("chmod", errno.EPERM, False), ("chmod", errno.ENOTSUP, False),
    ],
)  # fmt: skip
def test_a_file_system_that_lacks_what_we_would_like(tmp_path, monkeypatch, name, number, folders):
    failing(monkeypatch, name, number, folders)

    def fill(draft):
        draft.mkdir()
        (draft / "part").write_text("1")

    write_text(tmp_path / "a.json", "{}")
    write(tmp_path / "folder", fill)
    monkeypatch.undo()
    assert (tmp_path / "a.json").read_text() == "{}" and (tmp_path / "folder" / "part").read_text() == "1"


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("fsync", errno.ENOSPC, "No space left on device.*free some room there"), ("fsync", errno.EIO, "error"),
        ("replace", errno.EXDEV, "cross-device.*choose another place"), ("replace", errno.EROFS, "Read-only"),
        ("mkdir", errno.EROFS, "Read-only file system.*choose another place"),
        ("mkdir", errno.EDQUOT, "quota exceeded.*free some room there"),
    ],
)  # fmt: skip
def test_a_file_system_that_refuses_is_an_error_in_one_line(tmp_path, monkeypatch, name, number, words):
    (tmp_path / "a.json").write_text("old")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, refuse)
    with pytest.raises(OutputError, match=f"(?i)cannot write .*a.json.*{words}"):
        write_text(tmp_path / "a.json", "{}")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "old"


def test_what_cannot_be_renamed_is_put_aside_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "mark").write_text("{}")
    (tmp_path / "part-1").mkdir()
    (tmp_path / "part-1" / "inside").write_text("1")

    def refuse(*_, **__):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "rename", refuse)  # as overlay file systems say of a folder that an image brought
    with taking(tmp_path, ("mark", "part-*"), overwrite=True):
        assert not list(tmp_path.iterdir())


def test_lines_end_as_they_are_written(tmp_path):
    write_text(tmp_path / "x", "a\nß\n")
    assert (tmp_path / "x").read_bytes() == "a\nß\n".encode()


def test_no_module_that_windows_lacks_is_asked_for(tmp_path):
    code = (
        "import sys, psutil; sys.modules |= dict.fromkeys(('resource', 'fcntl', 'pwd', 'grp', 'termios'))\n"
        "import pkgutil, importlib, wheretune\n"
        "for one in pkgutil.walk_packages(wheretune.__path__, 'wheretune.'):\n"
        "    if one.name.split('.')[1] in ('support', 'records', 'catalog', 'cost', 'planning', 'cli', 'show'):\n"
        "        importlib.import_module(one.name)\n"
        "from wheretune.support import provenance\n"
        "psutil.Process = lambda: type('P', (), {'memory_info': lambda _: type('M', (), {'peak_wset': 7})})()\n"
        "print(provenance._highest_since_start())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": SOURCE, "LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout == "7\n", found.stderr


def test_a_claim_that_was_refused_is_taken_back_and_one_that_was_there_stays(tmp_path):
    def begin(content, *, refused=True):
        with claimed(tmp_path / "run" / "run.json", {"steps": content}, made=("plan.json",)):
            write_text(tmp_path / "run" / "plan.json", str(content))
            if refused:
                raise OutputError("x", "y")

    with pytest.raises(OutputError, match="x"):
        begin(1)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run" / "probe").mkdir(parents=True)  # hours of trials, which are good for any steps
    with pytest.raises(OutputError, match="x"):
        begin(1)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", "probe"}
    begin(2, refused=False)
    with pytest.raises(OutputError, match="x"):
        begin(2)
    with pytest.raises(OutputError, match="steps: 2 there, 3 now"):
        begin(3)
