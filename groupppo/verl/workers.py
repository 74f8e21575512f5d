"""verl's worker classes as this project runs them: the same classes, imported after the mends of the platform."""

import ctypes

from verl.single_controller.base.decorator import Dispatch, register
from verl.utils.device import get_device_name, get_torch_device
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from groupppo.measure.memory import AllocatorPeaks
from groupppo.verl.engine import register_engines
from groupppo.verl.platform import require_platform
from groupppo.verl.rollouts import register_adapters

__all__ = ["ActorWorker", "CriticWorker"]


def _prepare() -> None:
    require_platform()
    register_adapters()
    if get_device_name() == "cpu":
        from groupppo.verl.cpu.patches import patch_training

        patch_training()
    register_engines(get_device_name())


_prepare()


class ActorWorker(ActorRolloutRefWorker):
    """Policy, reference policy and rollout adapter of one rank; the critic of the rank shares its process."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def reset_peak_memory(self) -> AllocatorPeaks:
        """Start a new peak: on a GPU the allocator's; on a CPU the C library hands freed memory back."""
        device = get_torch_device()
        if get_device_name() == "cpu":
            ctypes.CDLL(None).malloc_trim(0)
        else:
            device.synchronize()
            device.reset_peak_memory_stats()
        return self.read_peak_memory()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def read_peak_memory(self) -> AllocatorPeaks:
        """The accelerator's allocator of this rank; zeros on a CPU, where the process tree is read instead."""
        device = get_torch_device()
        device.synchronize()
        return AllocatorPeaks(device.memory_allocated(), device.max_memory_allocated(), device.max_memory_reserved())

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def synchronise(self) -> None:
        """Wait until the accelerator of this rank has done what it was given, by policy and critic alike."""
        get_torch_device().synchronize()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def drop_keys_values(self) -> None:
        """Free what the log-probability pass kept for the update."""
        self.actor.engine.store = None


class CriticWorker(TrainingWorker):
    """Critic of one rank."""
