"""verl's worker classes as this project runs them: the same classes, imported after the mends of the platform."""

import verl  # loads the plug-in, which sets the platform the classes below read at import
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from groupppo.verl.plugin import require_platform
from groupppo.verl.rollouts import register_adapters

__all__ = ["ActorWorker", "CriticWorker"]


def _prepare() -> None:
    require_platform()
    register_adapters()
    if verl.utils.device.get_device_name() == "cpu":
        from groupppo.verl.cpu.patches import patch_training

        patch_training()


_prepare()


class ActorWorker(ActorRolloutRefWorker):
    """Policy, reference policy and rollout adapter of one rank."""


class CriticWorker(TrainingWorker):
    """Critic of one rank."""
