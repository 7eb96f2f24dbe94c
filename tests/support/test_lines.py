"""A file that grows belongs to one process, and is begun only when a line is written."""

import os
import subprocess
import sys

import pytest

from helpers.commands import SOURCE
from wheretune.errors import ConfigError, OutputError
from wheretune.support.lines import about_file, growing

HOLD = (
    "import sys, time; from pathlib import Path; from wheretune.support.lines import growing\n"
    "with growing(Path(sys.argv[1]), {'a': 1}): print('on', flush=True); time.sleep(60)"
)


def test_a_second_process_is_refused_until_the_first_has_ended_or_died(tmp_path):
    path = tmp_path / "deep" / "out.jsonl"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": SOURCE}
    )
    assert first.stdout.readline() == b"on\n"
    try:
        with pytest.raises(OutputError, match=r"another process is writing .*out.jsonl"), growing(path, {"a": 1}):
            pass
    finally:
        first.kill()
        first.wait()
    for text in ("x", "y"):
        with growing(path, {"a": 1}) as lines:
            lines.add([{"row": len(lines.rows), "text": text}])
            lines.finish()
    assert [line["text"] for line in lines.rows.values()] == ["x", "y"]
    assert {one.name for one in path.parent.iterdir()} == {path.name, about_file(path).name}  # the lock is gone


def test_what_is_refused_before_a_line_is_written_was_not_begun(tmp_path):
    path = tmp_path / "out.jsonl"

    def begin(content, lines=()):
        with growing(path, content) as file:
            file.add(lines)
            raise ConfigError("the batch size is 0", "give 1")

    with pytest.raises(ConfigError, match="batch size"):
        begin({"a": 1})
    assert not about_file(path).exists()
    with pytest.raises(ConfigError, match="batch size"):
        begin({"a": 2}, [{"row": 0, "text": "x"}])
    with pytest.raises(OutputError, match="a: 2 there, 3 now"):
        begin({"a": 3})
