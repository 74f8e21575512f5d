"""Memory and CPU time of a process tree, on processes whose use is known."""

import os
import subprocess
import sys
import textwrap

from groupppo.measure import memory as process_tree

MB = 2**20

CHILD = """
    import sys
    def hold(megabytes):
        return bytearray(b"x") * (megabytes << 20)
    for line in sys.stdin:
        megabytes = int(line)
        block = hold(megabytes)
        del block
        print("held", flush=True)
"""


def child() -> subprocess.Popen[str]:
    environment = dict(os.environ, MALLOC_MMAP_THRESHOLD_="131072")
    command = [sys.executable, "-c", textwrap.dedent(CHILD)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def hold(process: subprocess.Popen[str], megabytes: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{megabytes}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "held\n"


def test_memory_freed_before_the_end_of_a_stage_still_counts_in_its_peak_and_not_in_the_next() -> None:
    with child() as process:
        hold(process, 1)
        start = process_tree.begin(os.getpid())
        hold(process, 200)
        during = process_tree.end(os.getpid(), start)
        start = process_tree.begin(os.getpid())
        hold(process, 1)
        after = process_tree.end(os.getpid(), start)
        process.stdin.close()
    assert 195 * MB <= during.rise_bytes < 230 * MB  # the kernel counts pages in batches
    assert during.peak_bytes > during.rise_bytes
    assert after.rise_bytes < 30 * MB


def test_a_process_that_starts_within_a_stage_counts_in_full() -> None:
    start = process_tree.begin(os.getpid())
    with child() as process:
        hold(process, 100)
        usage = process_tree.end(os.getpid(), start)
        process.stdin.close()
    assert usage.rise_bytes >= 98 * MB


def test_cpu_seconds_are_those_between_the_two_readings() -> None:
    start = process_tree.begin(os.getpid())
    total = 0
    while process_tree.end(os.getpid(), start).cpu_seconds < 0.2:
        total += sum(range(10_000))
    idle = process_tree.end(os.getpid(), process_tree.begin(os.getpid()))
    assert total > 0
    assert idle.cpu_seconds < 0.1
