"""Stacks of processes that hang: those that can answer do, and the others are left alone."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
from groupppo.verl.stacks import VARIABLE, ask, place_in

WAITS = """
    import os, time
    from groupppo.verl.stacks import answer
    answer()
    os.fork()
    def wait_for_godot():
        os.write(1, b"here\\n")
        time.sleep(60)
    wait_for_godot()
"""


def test_a_process_and_its_fork_write_their_stacks_and_go_on(tmp_path: Path) -> None:
    file = tmp_path / "stacks.txt"
    command = [sys.executable, "-c", textwrap.dedent(WAITS)]
    with subprocess.Popen(command, env=os.environ | {VARIABLE: str(file)}, stdout=subprocess.PIPE) as process:
        here = [process.stdout.readline() for _ in range(2)]
        members = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        ask(file, members)
        waiting = [member.status() for member in members]
        for member in members:
            member.kill()
    assert here == [b"here\n"] * 2
    assert waiting == ["sleeping"] * 2
    text = file.read_text()
    assert text.count(" in wait_for_godot") == len(members) == 2
    assert all(f"==== process {member.pid}: " in text for member in members)


def test_a_process_that_cannot_answer_is_not_sent_a_signal_that_would_end_it(tmp_path: Path) -> None:
    file = tmp_path / "stacks.txt"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        ask(file, [psutil.Process(process.pid)])
        ended = process.poll()
        process.kill()
    assert ended is None
    assert not file.exists()


def test_the_place_is_the_innermost_frame_of_a_file() -> None:
    text = 'File "/a/b/trainer.py", line 3 in on_step_end\nFile "/a/b/trainer.py", line 9 in fit\n'
    assert place_in(text, "b/trainer.py") == "on_step_end"
    assert place_in(text, "b/other.py") is None
