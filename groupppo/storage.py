"""Bytes that a training run needs on disk while it is under way, and not afterwards."""

from groupppo.config import Train


def resumable_copies(train: Train) -> int:
    """How many times its own float32 weights a network takes on disk, at most, to be resumed from.

    Weights and the optimizer's two moments in each checkpoint, and two checkpoints: the last one stays until the next
    one is written. 0 where a run makes none before its last step.
    """
    return 2 * 3 if 0 < train.checkpoint_every < train.steps else 0
