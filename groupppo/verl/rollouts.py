"""The rollout servers that verl can be asked for by name, next to its own.

`transformers`: a small server on Hugging Face `generate`-style decoding; no vLLM needed, repeats to the bit.
`vllm`: verl's own vLLM server with a socket of the run's own for its weights; on a CPU with layers that can take them.
"""

from groupppo.verl.platform import asked_for_cpu

ADAPTERS = {
    "transformers": "groupppo.verl.transformers_rollout.TransformersAdapter",
    "vllm": "groupppo.verl.vllm_rollout.Adapter",
}


def register_adapters() -> None:
    """Make the rollouts known in a training worker (the side that sends weights)."""
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY

    _ROLLOUT_REGISTRY.update({(name, "async"): adapter for name, adapter in ADAPTERS.items()})


def register_replicas() -> None:
    """Make the rollouts known in the trainer's process (the side that starts servers)."""
    from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

    def transformers() -> type[RolloutReplica]:
        from groupppo.verl.transformers_rollout import TransformersReplica

        return TransformersReplica

    def vllm() -> type[RolloutReplica]:
        if asked_for_cpu():
            from groupppo.verl.cpu.vllm_rollout import CPUReplica

            return CPUReplica
        from groupppo.verl.vllm_rollout import Replica

        return Replica

    RolloutReplicaRegistry.register("transformers", transformers)
    RolloutReplicaRegistry.register("vllm", vllm)
