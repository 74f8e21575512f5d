"""What is counted for resuming is counted where a run does make checkpoints to be resumed from."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from groupppo.config import REPOSITORY, load_benchmark
from groupppo.storage import resumable_copies
from groupppo.verl.compose import saves_between

TRAIN = load_benchmark(REPOSITORY / "benchmarks" / "quick.yaml").train


@given(every=st.integers(0, 60), steps=st.integers(1, 60), critic=st.booleans())
def test_disk_is_planned_for_checkpoints_exactly_where_a_run_makes_them(every: int, steps: int, critic: bool) -> None:
    train = replace(TRAIN, checkpoint_every=every, steps=steps)
    assert (resumable_copies(train, critic) > 0) == saves_between(train)


def test_both_kinds_of_run_are_among_them() -> None:
    some, none = (replace(TRAIN, checkpoint_every=every, steps=20) for every in (10, 20))
    assert resumable_copies(none, critic=True) == 0
    assert resumable_copies(some, critic=False) == 2 * (3 + 1)
    assert resumable_copies(replace(some, save_critic=False), critic=True) == 2 * (3 + 1 + 3)
    assert resumable_copies(replace(some, save_critic=True), critic=True) == 2 * (3 + 1 + 3 + 1)
