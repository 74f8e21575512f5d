"""Bytes that a training run needs on disk while it is under way, and not afterwards."""

from groupppo.config import Train


def resumable_copies(train: Train, critic: bool) -> int:
    """How many times a network's float32 weights a run takes on disk, at most, to be resumed from.

    Of each network weights and the optimizer's two moments in each checkpoint, of those that are kept at the end a
    Hugging Face copy as well; and two checkpoints: the last one stays until the next one is written. 0 where a run
    makes none before its last step.

    Args:
        critic: whether the run trains one.
    """
    if not 0 < train.checkpoint_every < train.steps:
        return 0
    policy, value = 3 + 1, (3 + train.save_critic if critic else 0)
    return 2 * (policy + value)
