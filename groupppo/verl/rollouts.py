"""The rollout servers that verl can be asked for by name, next to its own.

`transformers`: a small server on Hugging Face `generate`-style decoding; no vLLM needed, repeats to the bit.
`vllm` on a CPU: verl's own vLLM server with the two mends that weight sync needs there.
"""

from groupppo.verl.platform import asked_for_cpu

TRANSFORMERS_ADAPTER = "groupppo.verl.transformers_rollout.TransformersAdapter"


def register_adapters() -> None:
    """Make the rollouts known in a training worker (the side that sends weights)."""
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY

    _ROLLOUT_REGISTRY["transformers", "async"] = TRANSFORMERS_ADAPTER


def register_replicas() -> None:
    """Make the rollouts known in the trainer's process (the side that starts servers)."""
    from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

    def transformers() -> type[RolloutReplica]:
        from groupppo.verl.transformers_rollout import TransformersReplica

        return TransformersReplica

    def vllm_on_cpu() -> type[RolloutReplica]:
        from groupppo.verl.cpu.vllm_rollout import CPUReplica

        return CPUReplica

    RolloutReplicaRegistry.register("transformers", transformers)
    if asked_for_cpu():
        RolloutReplicaRegistry.register("vllm", vllm_on_cpu)
