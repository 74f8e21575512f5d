"""All updates by verl's own workers: python -m tests.verl.engine_updates FOLDER cpu|gpu

FOLDER holds `policy/`, `critic/` (Hugging Face folders) and `batch.safetensors`; results1.safetensors and
results2.safetensors are written there. Worlds of one and of two ranks run side by side, forked after the imports.

With `gpu` the engines are configured as a run on GPUs has them, on a CPU: its cell is composed, flash-attn is a
stand-in, and verl's own loader makes the critic. What stays out is the device and torch.compile of the entropy.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Before verl is imported: its engines choose their device then.
os.environ |= {"GROUPPPO_PLATFORM": "cpu", "GROUPPPO_HIDDEN_PACKAGES": "vllm,flash_attn", "OMP_NUM_THREADS": "1"}

if sys.argv[2:] == ["gpu"]:
    from tests.verl import flash_attention

    flash_attention.install()

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils import torch_functional
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import TrainingWorkerConfig
from verl.workers.utils.losses import ppo_loss, value_loss
from verl.workers.utils.padding import response_from_nested

from groupppo.config import REPOSITORY, load_benchmark
from groupppo.verl import engine as our_engine
from groupppo.verl.compose import Cell, compose
from groupppo.verl.engine import CriticWorker  # also prepares verl's engines for the CPU
from groupppo.verl.passes import KEEP_BYTES, MODE, USE_KEPT, WINDOW
from tests.verl.plain_updates import flat
from tests.verl.updates import LEARNING_RATE, ON_CPU, ON_GPU, RESPONSES, Batch, Role, Update, of_cpus, of_gpus

CALLS: dict[str, int] = flash_attention.calls if "gpu" in sys.argv else {}
"""Of each kernel by name, in this process."""
Loss = Callable[..., tuple[Tensor, dict[str, Any]]]


def config(folder: Path, device: str, **train: str) -> DictConfig:
    """The config of a real run, with steps that are the gradient itself: no momentum, no clipping."""
    matrix, task, model = {"cpu": ("quick", "sorting", "tiny"), "cuda": ("gsm8k", "gsm8k", "qwen2_5_0_5b")}[device]
    benchmark = load_benchmark(REPOSITORY / "benchmarks" / f"{matrix}.yaml")
    keys: dict[str, Any] = {}
    for role, part in (("policy", "actor_rollout_ref.actor"), ("value", "critic")):
        keys[f"{part}.optim.optimizer"] = "SGD"
        keys[f"{part}.optim.lr"] = LEARNING_RATE[role]
        keys[f"{part}.optim.weight_decay"] = 0.0
        keys[f"{part}.optim.clip_grad"] = 1e9
    cell = Cell(
        task=benchmark.tasks[task],
        model=benchmark.models[model],
        arm=benchmark.arms["group_ppo"],
        seed=1,
        train=replace(benchmark.train, verl=keys, **train),
        task_folder=folder,
        start=folder / "policy",
        out=folder,
        device=device,
    )
    composed = compose(cell)
    composed.critic.model.path = str(folder / "critic")
    return composed


def configs(folder: Path, device: str) -> dict[str, DictConfig]:
    """Of each engine of updates.py, in the order in which they are to run."""
    stock = config(folder, device)
    models, engines = (
        ("actor_rollout_ref.model", "critic.model"),
        ("actor_rollout_ref.actor.fsdp_config", "critic.fsdp"),
    )
    if device == "cpu":
        return {"padded": stock, "packed": _with(stock, models, use_remove_padding=True)}
    plain = config(folder, device, attention="sdpa")
    for part in (*engines, "actor_rollout_ref.actor"):
        for settings in (stock, plain):
            OmegaConf.update(settings, f"{part}.use_torch_compile", False)
    wide = {"mixed_precision": dict.fromkeys(("param_dtype", "reduce_dtype", "buffer_dtype"), "fp32")}
    stock_wide = _with(stock, engines, **wide)
    return {
        "float32": stock_wide,
        "stored": _with(stock_wide, models, enable_gradient_checkpointing=False),
        "bfloat16": stock,
        "sdpa_float32": _with(plain, engines, **wide),
        "sdpa_bfloat16": plain,
        "fused": _with(stock_wide, models[:1], use_fused_kernels=True),
    }


def _with(stock: DictConfig, parts: tuple[str, ...], **keys: Any) -> DictConfig:
    config = stock.copy()
    for part in parts:
        for key, value in keys.items():
            OmegaConf.update(config, f"{part}.{key}", value)
    return config


class Trainee:
    """A worker of verl with its losses, as its trainer builds it."""

    def __init__(self, role: Role, settings: DictConfig):
        self.role = role
        if role == "policy":
            part = omega_conf_to_dataclass(settings.actor_rollout_ref.actor)
            model, kind = omega_conf_to_dataclass(settings.actor_rollout_ref.model), "language_model"
        else:
            part = omega_conf_to_dataclass(settings.critic)
            model, kind = part.model, "value_model"
        self.loss = partial(ppo_loss if role == "policy" else value_loss, config=part)
        self.worker = CriticWorker(
            TrainingWorkerConfig(
                model_type=kind,
                model_config=model,
                engine_config=part.engine,
                optimizer_config=part.optim,
                checkpoint_config=part.checkpoint,
                profiler_config=omega_conf_to_dataclass(part.profiler),
            )
        )
        self.worker.reset()
        self.start = [parameter.detach().clone() for parameter in self._parameters()]

    def _parameters(self) -> list[Any]:
        return [parameter for _, parameter in sorted(self.worker.engine.module.named_parameters())]

    @torch.no_grad()
    def _set_weights(self, scale: float = 1.0) -> None:
        """Those of the start, or a multiple of them."""
        for parameter, start in zip(self._parameters(), self.start, strict=True):
            parameter.copy_(start * scale)

    def train(self, update: Update, batch: Batch) -> dict[str, Tensor]:
        """Gradients (steps, parameters) and change of the parameters, over all ranks."""
        parameters, gradients = self._parameters(), []
        if update.kept:
            self._set_weights(scale=1.2 if update.stale else 1.0)
            self.infer(batch, update.rows(torch.distributed.get_rank()), **{KEEP_BYTES: 2**30})
        self._set_weights()

        def keep(*_: object) -> None:
            gradients.append(flat([parameter.grad.full_tensor() for parameter in parameters]))

        self.worker.set_loss_fn(_spoilt(self.loss, update))
        hook = self.worker.engine.optimizer.register_step_pre_hook(keep)
        self.worker.train_mini_batch(_as_verl_sends_it(update, batch))
        hook.remove()
        moved = [(after - before).full_tensor() for after, before in zip(parameters, self.start, strict=True)]
        return {"gradients": torch.stack(gradients), "change": flat([tensor.detach() for tensor in moved])}

    def infer(self, batch: Batch, rows: Sequence[int] = range(len(RESPONSES)), **asked: Any) -> dict[str, Tensor]:
        """Padded (B, T) statistics of the responses, cut out as verl's trainer does it, by the pass that is asked."""
        counts = batch.losses("endpoint_endpoints").policy.counts if MODE in asked else batch.response_mask
        masks = {"response_mask": counts.long(), "loss_mask": counts.long()}
        data = _nested(batch, masks, list(rows))
        fused = self.worker.engine_config.use_fused_kernels
        settings = {"use_dynamic_bsz": True, "max_token_len_per_gpu": 60, "compute_loss": False}
        settings |= {"calculate_entropy": True, "calculate_sum_pi_squared": not (asked or fused), "temperature": 1.0}
        tu.assign_non_tensor(data, **settings, **asked)
        output = self.worker.infer_batch(data)
        names = {"log_probs", "entropy", "sum_pi_squared", "values"} & set(output.keys())
        return {name: response_from_nested(output[name], data["responses"]).to_padded_tensor(0.0) for name in names}


def _as_verl_sends_it(update: Update, batch: Batch) -> TensorDict:
    losses = batch.losses(update.reading)
    mask = update.mask(losses)
    written = {"response_mask": mask.counts.long(), "loss_mask": mask.divides.long()}
    if update.role == "policy":
        written |= {"advantages": losses.advantages, "old_log_probs": batch.old_log_probs}
    else:
        written |= {"returns": losses.returns, "values": batch.values}
    data = _nested(batch, written, update.rows(torch.distributed.get_rank()))
    split: dict[str, Any] = {"use_dynamic_bsz": update.tokens is not None}
    if update.tokens is None:
        split["micro_batch_size_per_gpu"] = update.responses
    else:
        split["max_token_len_per_gpu"] = update.tokens
    if update.computes:
        split |= {MODE: update.computes, WINDOW: update.window, USE_KEPT: update.kept}
    size = len(RESPONSES) // update.mini_batches
    tu.assign_non_tensor(
        data,
        **split,
        global_batch_size=size,
        mini_batch_size=size,
        epochs=update.epochs,
        seed=1,
        dataloader_kwargs={"shuffle": False},
        temperature=1.0,
        calculate_entropy=False,
    )
    return data


def _nested(batch: Batch, fields: dict[str, Tensor], rows: list[int]) -> TensorDict:
    prompts, lengths = batch.prompt_lengths.tolist(), batch.response_lengths.tolist()
    ids = {row: batch.input_ids[row, : prompts[row] + lengths[row]] for row in rows}
    found = {
        "input_ids": list(ids.values()),
        "position_ids": [torch.arange(len(row)) for row in ids.values()],
        "prompts": [ids[row][: prompts[row]] for row in rows],
        "responses": [ids[row][prompts[row] :] for row in rows],
    }
    found |= {name: [tensor[row, : lengths[row]] for row in rows] for name, tensor in fields.items()}
    nested = {name: torch.nested.as_nested_tensor(parts, layout=torch.jagged) for name, parts in found.items()}
    return TensorDict(nested, batch_size=len(rows))


def _spoilt(loss: Loss, update: Update) -> Loss:
    """The loss with the update's mistake in what divides it, and verl's own where it has none."""

    def spoilt(data: TensorDict, **rest: Any) -> tuple[Tensor, dict[str, Any]]:
        own = max(1, int(data["loss_mask"].values().sum()))
        scale = len(RESPONSES) // update.responses if update.responses else update.ranks
        tu.assign_non_tensor(data, batch_num_tokens=own * scale)
        return loss(data=data, **rest)

    return loss if update.divides_by == "all" else spoilt


def run_rank(
    folder: Path, updates: list[Update], configs: dict[str, DictConfig], store: Path, rank: int, ranks: int
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ["DIST_INIT_METHOD"] = f"file://{store}"
    if set(configs) == set(ON_GPU):  # the branches of our engines, once gloo is there to take NCCL's place
        our_engine._begin()
        our_engine.get_device_name = lambda: "cuda"
    batch = Batch.load(folder / "batch.safetensors")
    tensors: dict[str, Tensor] = {}
    for engine, settings in configs.items():
        attention = settings.critic.model.override_config.attn_implementation
        if engine in ON_GPU:
            flash_attention.allow_float32(engine != "bfloat16")
            # Where verl finds no flash-attn it has no such cross-entropy either.
            torch_functional.FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE = attention != "sdpa"
        before = dict(CALLS)
        mine = [update for update in updates if (update.engine, update.ranks) == (engine, ranks)]
        trainees: dict[Role, Trainee] = {
            role: Trainee(role, settings) for role in dict.fromkeys(update.role for update in mine)
        }
        for trainee in trainees.values() if ranks == 1 else ():
            assert trainee.worker.engine.module.config._attn_implementation == attention
            for name, found in inferred(trainee, batch, engine).items():
                tensors[f"infer-{name}-{engine}"] = found.contiguous()
        for update in mine:
            found = trainees[update.role].train(update, batch)
            tensors |= {f"{name}-{update.name}": tensor for name, tensor in found.items()}
        for kernel, calls in before.items():
            tensors[f"calls-{kernel}-{engine}-{ranks}"] = torch.tensor(CALLS[kernel] - calls)
    if rank == 0:
        save_file(tensors, folder / f"results{ranks}.safetensors")
    torch.distributed.destroy_process_group()


def inferred(trainee: Trainee, batch: Batch, engine: str) -> dict[str, Tensor]:
    """Statistics by verl's own pass, and on a GPU by those that gather and keep, whose names say so."""
    found = trainee.infer(batch)
    if engine in ON_GPU:
        found |= {f"gathered_{name}": tensor for name, tensor in trainee.infer(batch, **{MODE: "gathered"}).items()}
        if trainee.role == "policy":
            kept = trainee.infer(batch, **{KEEP_BYTES: 2**30})
            found |= {f"kept_{name}": tensor for name, tensor in kept.items()}
    return found


def _count_fused_heads() -> None:
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    stock, CALLS["fused_head"] = FusedLinearForPPO.forward, 0

    def forward(*args: Any, **kwargs: Any) -> Any:
        CALLS["fused_head"] += 1
        return stock(*args, **kwargs)

    FusedLinearForPPO.forward = forward


def main(folder: Path, branch: str) -> int:
    torch.set_num_threads(1)
    updates = of_cpus() if branch == "cpu" else of_gpus()
    if branch == "gpu":
        _count_fused_heads()
    engines = configs(folder, "cpu" if branch == "cpu" else "cuda")
    assert tuple(engines) == (ON_CPU if branch == "cpu" else ON_GPU)
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as stores:
        worlds = [(Path(stores) / str(ranks), rank, ranks) for ranks in (1, 2) for rank in range(ranks)]
        running = [fork.Process(target=run_rank, args=(folder, updates, engines, *world)) for world in worlds]
        for process in running:
            process.start()
        while any(process.is_alive() for process in running):
            for process in running:
                process.join(0.1)
            if any(process.exitcode for process in running):  # the other ranks would wait for the one that failed
                for process in running:
                    process.kill()
    return max(abs(process.exitcode) for process in running)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
