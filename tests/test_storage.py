"""What is counted for resuming is counted where a run does make checkpoints to be resumed from."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from groupppo.config import REPOSITORY, load_benchmark
from groupppo.storage import resumable_copies
from groupppo.verl.compose import saves_between

TRAIN = load_benchmark(REPOSITORY / "benchmarks" / "quick.yaml").train


@given(every=st.integers(0, 60), steps=st.integers(1, 60))
def test_disk_is_planned_for_checkpoints_exactly_where_a_run_makes_them(every: int, steps: int) -> None:
    train = replace(TRAIN, checkpoint_every=every, steps=steps)
    assert (resumable_copies(train) > 0) == saves_between(train)


def test_both_kinds_of_run_are_among_them() -> None:
    assert resumable_copies(replace(TRAIN, checkpoint_every=10, steps=20)) == 6
    assert resumable_copies(replace(TRAIN, checkpoint_every=20, steps=20)) == 0
