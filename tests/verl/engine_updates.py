"""All updates by verl's own workers: python -m tests.verl.engine_updates FOLDER

FOLDER holds `policy/`, `critic/` (Hugging Face folders) and `batch.safetensors`; results1.safetensors and
results2.safetensors are written there. Worlds of one and of two ranks run side by side, forked after the imports.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Before verl is imported: its engines choose their device then.
os.environ |= {"GROUPPPO_PLATFORM": "cpu", "GROUPPPO_HIDDEN_PACKAGES": "vllm,flash_attn", "OMP_NUM_THREADS": "1"}

import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import TrainingWorkerConfig
from verl.workers.utils.losses import ppo_loss, value_loss
from verl.workers.utils.padding import response_from_nested

from groupppo.config import REPOSITORY, load_benchmark
from groupppo.verl.compose import Cell, compose
from groupppo.verl.engine import CriticWorker  # also prepares verl's engines for the CPU
from groupppo.verl.passes import MODE
from tests.verl.plain_updates import flat
from tests.verl.updates import LEARNING_RATE, RESPONSES, Batch, Role, Update, all_updates

Loss = Callable[..., tuple[Tensor, dict[str, Any]]]


def config(folder: Path, packed: bool, gpu: bool) -> DictConfig:
    """The config of a real run, with steps that are the gradient itself: no momentum, no clipping."""
    benchmark = load_benchmark(REPOSITORY / "benchmarks" / ("origin_gsm8k.yaml" if gpu else "quick.yaml"))
    keys: dict[str, Any] = {}
    for role, part, model in (
        ("policy", "actor_rollout_ref.actor", "actor_rollout_ref.model"),
        ("value", "critic", "critic.model"),
    ):
        keys[f"{part}.optim.optimizer"] = "SGD"
        keys[f"{part}.optim.lr"] = LEARNING_RATE[role]
        keys[f"{part}.optim.weight_decay"] = 0.0
        keys[f"{part}.optim.clip_grad"] = 1e9
        if not gpu:
            keys[f"{model}.use_remove_padding"] = packed
    (task, *_), (model, *_) = benchmark.tasks.values(), benchmark.models.values()
    cell = Cell(
        task=task,
        model=model,
        arm=benchmark.arms["group_ppo_published" if gpu else "group_ppo"],
        seed=1,
        train=replace(benchmark.train, verl=keys, attention="sdpa" if gpu else "flash_attention_2"),
        task_folder=folder,
        start=folder / "policy",
        out=folder,
        device=benchmark.device,
    )
    composed = compose(cell)
    composed.critic.model.path = str(folder / "critic")
    return composed


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

    def train(self, update: Update, batch: Batch) -> dict[str, Tensor]:
        """Gradients (steps, parameters) and change of the parameters, over all ranks."""
        parameters, gradients = self._parameters(), []
        with torch.no_grad():
            for parameter, start in zip(parameters, self.start, strict=True):
                parameter.copy_(start)

        def keep(*_: object) -> None:
            gradients.append(flat([parameter.grad.full_tensor() for parameter in parameters]))

        self.worker.set_loss_fn(_spoilt(self.loss, update))
        hook = self.worker.engine.optimizer.register_step_pre_hook(keep)
        self.worker.train_mini_batch(_as_verl_sends_it(update, batch))
        hook.remove()
        moved = [(after - before).full_tensor() for after, before in zip(parameters, self.start, strict=True)]
        return {"gradients": torch.stack(gradients), "change": flat([tensor.detach() for tensor in moved])}

    def infer(self, batch: Batch) -> dict[str, Tensor]:
        """Padded (B, T) statistics of the responses, cut out as verl's trainer does it."""
        masks = dict.fromkeys(("response_mask", "loss_mask"), batch.response_mask)
        data = _nested(batch, masks, list(range(len(RESPONSES))))
        settings = {"use_dynamic_bsz": True, "max_token_len_per_gpu": 60, "compute_loss": False}
        settings |= {"calculate_entropy": True, "calculate_sum_pi_squared": True, "temperature": 1.0}
        tu.assign_non_tensor(data, **settings)
        output = self.worker.infer_batch(data)
        names = ("log_probs", "entropy", "sum_pi_squared") if self.role == "policy" else ("values",)
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
        split[MODE] = update.computes
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
    folder: Path,
    updates: list[Update],
    configs: dict[tuple[bool, bool], DictConfig],
    store: Path,
    rank: int,
    ranks: int,
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ["DIST_INIT_METHOD"] = f"file://{store}"
    batch = Batch.load(folder / "batch.safetensors")
    tensors: dict[str, Tensor] = {}
    for (packed, gpu), settings in configs.items():
        if gpu and ranks > 1:
            continue
        trainees: dict[Role, Trainee] = {role: Trainee(role, settings) for role in ("policy", "value")}
        if ranks == 1:
            for trainee in trainees.values():
                tensors |= {
                    f"infer-{name}-{'gpu' if gpu else packed}": found for name, found in trainee.infer(batch).items()
                }
        for update in updates:
            if (update.packed, update.gpu, update.ranks) == (packed, gpu, ranks):
                found = trainees[update.role].train(update, batch)
                tensors |= {f"{name}-{update.name}": tensor for name, tensor in found.items()}
    if rank == 0:
        save_file(tensors, folder / f"results{ranks}.safetensors")
    torch.distributed.destroy_process_group()


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    configs = {kind: config(folder, *kind) for kind in ((False, False), (True, False), (False, True))}
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as stores:
        worlds = [(Path(stores) / str(ranks), rank, ranks) for ranks in (1, 2) for rank in range(ranks)]
        running = [fork.Process(target=run_rank, args=(folder, all_updates(), configs, *world)) for world in worlds]
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
    sys.exit(main(Path(sys.argv[1])))
