"""The GPU matrices without a GPU: what cannot run is refused; for all cells see tests/cli/test_faults.py."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from groupppo.config import REPOSITORY, Model, load_benchmark
from groupppo.errors import BadInput
from groupppo.run.launch import environment
from groupppo.update.memory import step_bytes
from groupppo.verl import fits
from groupppo.verl.compose import Cell, compose
from tests.verl.conftest import MakeCell

HOME = REPOSITORY / "benchmarks"
NAMES = ("gsm8k", "origin_gsm8k", "origin_8gpu")
MATRICES = {name: load_benchmark(HOME / f"{name}.yaml") for name in NAMES}


GpuCell = Callable[..., Cell]


@pytest.fixture
def gpu_cell(small_model_folder: Path, tmp_path: Path) -> GpuCell:
    """Cells of the GPU matrices, with the small model's folder in the place of what would be downloaded."""
    density = tmp_path / "steps.jsonl"
    density.write_text('{"step": 1, "group/density": 0.2}\n')

    def make(name: str = "gsm8k", task: str = "gsm8k", model: str = "qwen2_5_0_5b", arm: str = "ppo") -> Cell:
        matrix = MATRICES[name]
        return Cell(
            task=matrix.tasks[task],
            model=matrix.models[model],
            arm=matrix.arms[arm],
            seed=1,
            train=matrix.train,
            task_folder=tmp_path,
            start=small_model_folder,
            out=tmp_path,
            device=matrix.device,
            ranks=matrix.models[model].resources["gpu"],
            density_source=density if matrix.arms[arm].density_from else None,
        )

    return make


@pytest.fixture
def cell(gpu_cell: GpuCell) -> Cell:
    return gpu_cell()


def test_the_cuda_path_is_verls_own_and_the_cpu_path_is_unchanged(cell: Cell, make_cell: MakeCell) -> None:
    gpu, cpu = compose(cell), compose(make_cell("ppo"))
    for config, expected in (
        (gpu, ("cuda", "flash_attention_2", True, True, False, "bfloat16", True)),
        (cpu, ("cpu", "sdpa", False, False, True, "float32", False)),
    ):
        model, rollout = config.actor_rollout_ref.model, config.actor_rollout_ref.rollout
        found = (
            config.trainer.device,
            model.override_config.attn_implementation,
            model.use_remove_padding,
            model.enable_gradient_checkpointing,
            rollout.enforce_eager,
            rollout.dtype,
            rollout.free_cache_engine,
        )
        assert found == expected
        assert config.critic.model.override_config.attn_implementation == expected[1]
    # On GPUs verl's own agent loops run, which score in other processes.
    loops = [config.actor_rollout_ref.rollout.agent.agent_loop_manager_class for config in (gpu, cpu)]
    assert loops == [None, "groupppo.verl.rollouts.InPlaceManager"]
    assert cpu.reward.custom_reward_function.path == "pkg://groupppo.tasks.own_reward"
    assert gpu.actor_rollout_ref.actor.fsdp_config.mixed_precision is None  # bfloat16 over float32 weights
    assert not gpu.actor_rollout_ref.actor.fsdp_config.full_determinism


def test_one_number_bounds_the_tokens_of_every_pass(cell: Cell) -> None:
    config = compose(cell)
    assert config.critic.ppo_infer_max_token_len_per_gpu == config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu
    longer = compose(replace(cell, task=replace(cell.task, max_response_tokens=20_000), model=with_gpus(cell.model, 4)))
    assert longer.actor_rollout_ref.actor.ppo_max_token_len_per_gpu == 20_512


def with_gpus(model: Model, gpu_memory: float, **verl: object) -> Model:
    return replace(
        model,
        resources=model.resources | {"gpu_memory_gb": gpu_memory if gpu_memory > 8 else 200},
        verl=model.verl | {key.replace("__", "."): value for key, value in verl.items()},
    )


def test_a_run_that_does_not_fit_is_refused_with_the_phase_and_its_gigabytes(cell: Cell) -> None:
    with pytest.raises(BadInput, match=r"needs [\d.]+ GB of each GPU \(states [\d.]+") as error:
        compose(replace(cell, model=with_gpus(cell.model, 24)))
    assert (error.value.key, error.value.value) == ("resources.gpu_memory_gb", 24)
    assert error.value.file.endswith("models/qwen2_5_0_5b.yaml")


def test_offloading_lets_a_7b_model_fit_that_did_not(gpu_cell: GpuCell) -> None:
    seven = gpu_cell(model="qwen2_5_7b")
    assert compose(seven)
    stays = {key: value for key, value in seven.model.verl.items() if "offload" not in key}
    with pytest.raises(BadInput, match=r"resources\.gpu_memory_gb = 80"):
        compose(replace(seven, model=replace(seven.model, verl=stays)))
    half = stays | {"actor_rollout_ref.actor.fsdp_config.offload_policy": True}
    with pytest.raises(BadInput, match="offload the critic as the policy"):
        compose(replace(seven, model=replace(seven.model, verl=half)))
    small = replace(seven.model, resources=seven.model.resources | {"mem_mb": 100_000})
    with pytest.raises(BadInput, match="offloaded states"):
        compose(replace(seven, model=small))


@pytest.mark.parametrize(
    ("verl", "key"),
    [
        ({"actor_rollout_ref__rollout__gpu_memory_utilization": 0.01}, "gpu_memory_utilization"),
        ({"actor_rollout_ref__rollout__gpu_memory_utilization": 0.95}, "resources.gpu_memory_gb"),
        ({"actor_rollout_ref__rollout__tensor_model_parallel_size": 2}, "tensor_model_parallel_size"),
        ({"actor_rollout_ref__actor__ppo_max_token_len_per_gpu": 512}, "ppo_max_token_len_per_gpu"),
        ({"actor_rollout_ref__actor__ppo_max_token_len_per_gpu": 65_536}, "resources.gpu_memory_gb"),
    ],
)
def test_a_setting_that_cannot_work_on_the_named_gpu_is_refused(cell: Cell, verl: dict, key: str) -> None:
    with pytest.raises(BadInput) as error:
        compose(replace(cell, model=with_gpus(cell.model, 48, **verl)))
    assert error.value.key.endswith(key)
    assert error.value.hint


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"device": "tpu"}, "device"),
        ({"rollout": "transformers"}, "train.rollout"),
        ({"ranks": 3}, "train.prompts_per_step"),
        ({"shape": None}, "resources"),
    ],
)
def test_a_device_that_cannot_serve_the_cell_is_refused(cell: Cell, changes: dict, key: str) -> None:
    train = replace(cell.train, rollout=changes.pop("rollout", "vllm"))
    model = replace(cell.model, **{key: changes.pop(key) for key in ("shape",) if key in changes})
    assert compose(cell)
    with pytest.raises(BadInput) as error:
        compose(replace(cell, train=train, model=model, **changes))
    assert error.value.key == key


@pytest.mark.parametrize(
    ("name", "task", "model", "arm"),
    [
        ("gsm8k", "gsm8k", "qwen2_5_7b", "group_ppo_streamed"),
        ("gsm8k", "gsm8k", "qwen3_0_6b", "group_ppo_fused"),
        ("origin_gsm8k", "gsm8k_short", "qwen2_5_0_5b", "ppo"),
        ("origin_8gpu", "gsm8k_short", "qwen2_5_0_5b_8gpu", "stride"),
    ],
)
def test_every_matrix_can_be_run_without_flash_attention(
    gpu_cell: GpuCell, name: str, task: str, model: str, arm: str
) -> None:
    packed = gpu_cell(name, task, model, arm)
    padded = replace(packed, train=replace(packed.train, attention="sdpa"))
    assert compose(packed).actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu is None
    config = compose(padded)
    actor, longest = config.actor_rollout_ref.actor, config.data.max_prompt_length + config.data.max_response_length
    sizes = [actor.ppo_micro_batch_size_per_gpu, config.actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu]
    sizes += [config.critic.ppo_micro_batch_size_per_gpu, config.critic.ppo_infer_micro_batch_size_per_gpu]
    mini_batch = actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n // packed.ranks
    assert len(set(sizes)) == 1
    assert 0 < sizes[0] * longest <= 8192
    assert mini_batch % sizes[0] == 0
    assert (actor.use_dynamic_bsz, config.critic.use_dynamic_bsz) == (False, False)
    for part in (config.actor_rollout_ref.model, config.critic.model):
        assert (part.override_config.attn_implementation, part.use_remove_padding) == ("sdpa", False)
    # verl holds the logits of padded rows twice.
    runs = [fits.run_shape(one, packed.model, lambda key: (Path(key), key)) for one in (config, compose(packed))]
    larger = [sum(step_bytes(replace(run, micro_batch=4096), 80e9)["update_actor"].values()) for run in runs]
    assert (larger[0] > larger[1]) != runs[0].fused


@pytest.mark.parametrize("part", ["actor_rollout_ref.actor", "actor_rollout_ref.actor.fsdp_config", "critic.fsdp"])
@pytest.mark.parametrize(("arm", "attention"), [("group_ppo", "flash_attention_2"), ("ppo", "sdpa")])
def test_sequences_are_not_split_over_gpus_where_that_cannot_work(
    gpu_cell: GpuCell, part: str, arm: str, attention: str
) -> None:
    cell, key = gpu_cell(model="qwen2_5_3b", arm=arm), f"{part}.ulysses_sequence_parallel_size"
    split = replace(cell, arm=replace(cell.arm, verl=cell.arm.verl | {key: 2}))
    with pytest.raises(BadInput, match=r"= 2\n.*write 1: sequences are whole on their GPU") as error:
        compose(replace(split, train=replace(cell.train, attention=attention)))
    assert (error.value.file, error.value.key) == (str(cell.arm.source), key)
    if arm == "ppo":
        assert compose(split)


def test_padded_rows_are_not_asked_for_where_there_are_no_others(make_cell: MakeCell) -> None:
    with pytest.raises(BadInput, match="leave it out: runs on a CPU") as error:
        compose(make_cell("ppo", attention="sdpa"))
    assert error.value.key == "train.attention"


def test_keys_and_values_that_a_gpu_cannot_keep_are_refused_and_others_are_counted_on_it(gpu_cell: GpuCell) -> None:
    reuse = "algorithm.group_params.kv"
    cell = gpu_cell("gsm8k", arm="group_ppo_streamed")
    assert compose(cell).algorithm.group_params.kv == "recompute"  # what the matrix says
    assert compose(gpu_cell("gsm8k", arm="group_ppo")).algorithm.group_params.kv == "reuse"  # a default without effect
    kept = replace(cell, arm=replace(cell.arm, verl=cell.arm.verl | {reuse: "reuse"}))
    # 64 prompts with 8 responses, 512 + 512 tokens, 24 layers with 2 heads of 64 channels, keys and values of 2 bytes.
    needed = 64 * 8 * 1024 * 24 * 2 * 64 * 2 * 2
    with pytest.raises(BadInput, match=f"write kv: recompute, or kv_bytes: {needed}, which") as error:
        compose(kept)
    assert error.value.key == "algorithm.group_params.kv_bytes"
    assert error.value.file == str(cell.arm.source)
    more = replace(kept, arm=replace(kept.arm, verl=kept.arm.verl | {"algorithm.group_params.kv_bytes": needed}))
    phases = step_bytes(fits.run_shape(compose(more), cell.model, lambda key: (Path(key), key)), 48e9)
    held = {phase: causes["keys_values"] for phase, causes in phases.items()}
    assert held == {"rollout": 0, "update_actor": needed, "update_critic": needed}
    with pytest.raises(BadInput, match=r"keys_values 6\.4"):
        compose(replace(more, model=with_gpus(cell.model, 40)))


def test_a_gpus_processes_share_its_cpus_and_every_model_samples_with_one_runner(
    gpu_cell: GpuCell, make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the scripts of the workflow leave it
    seven = environment(gpu_cell(model="qwen2_5_7b"))
    assert (seven["OMP_NUM_THREADS"], seven["CUDA_DEVICE_ORDER"]) == ("12", "PCI_BUS_ID")  # 48 CPUs, 4 GPUs
    assert environment(make_cell("ppo"))["OMP_NUM_THREADS"] == "1"
    runners = {environment(gpu_cell(model=name))["VLLM_USE_V2_MODEL_RUNNER"] for name in MATRICES["gsm8k"].models}
    assert runners == {"0"}


def test_a_gpu_is_as_large_as_it_is_sold_and_a_machine_with_fewer_or_smaller_ones_is_named(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for seen, taken in ((47.7e9, True), (51.0e9, True), (45.0e9, False)):  # an L40S, an A6000, a third of an H200
        found = SimpleNamespace(name="a GPU", total_memory=seen)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index, found=found: found)
        small = r"resources\.gpu_memory_gb = 48\n.*45\.0 GB, and 46\.6 are counted on"
        with nullcontext() if taken else pytest.raises(BadInput, match=small):
            fits.require_gpus(cell.model, 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(BadInput, match="PyTorch sees 0 here") as error:
        fits.require_gpus(cell.model, 1)
    assert error.value.key == "resources.gpu"


@pytest.mark.parametrize("cpus", [None, 2, 64])
def test_ray_has_places_for_verls_processes_however_many_cores_a_run_is_given(gpu_cell: GpuCell, cpus) -> None:
    for name, model, held in (("gsm8k", "qwen2_5_0_5b", 12), ("gsm8k", "qwen2_5_7b", 21)):
        cell = gpu_cell(name, model=model)
        kept = {key: value for key, value in cell.model.resources.items() if key != "cpus"}
        resources = kept if cpus is None else kept | {"cpus": cpus}
        cell = replace(cell, model=replace(cell.model, resources=resources))
        assert compose(cell).ray_kwargs.ray_init.num_cpus > held


@pytest.mark.parametrize(
    ("verl", "key"),
    [
        ({"ray_kwargs__ray_init__num_cpus": 11}, "ray_kwargs.ray_init.num_cpus"),
        ({"transfer_queue__backend__SimpleStorage__num_data_storage_units": 12}, "num_data_storage_units"),
    ],
)
def test_fewer_places_than_verls_processes_hold_are_refused(cell: Cell, verl: dict, key: str) -> None:
    with pytest.raises(BadInput, match="would wait for ever") as error:
        compose(replace(cell, model=with_gpus(cell.model, 48, **verl)))
    assert error.value.key.endswith(key)
    (name, value), shift = *verl.items(), 1 if key.endswith("cpus") else -1
    assert compose(replace(cell, model=with_gpus(cell.model, 48, **{name: value + shift})))


def test_the_origins_runs_have_its_published_numbers(gpu_cell: GpuCell) -> None:
    for name, gpus, batch, mini, threshold in (("origin_gsm8k", 1, 8, 4, 0.8), ("origin_8gpu", 8, 64, 32, 2.0)):
        origin = MATRICES[name]
        (task,), (model,) = origin.tasks.values(), origin.models.values()
        arm = next(arm for arm in origin.arms if arm.startswith("group_ppo_origin"))
        config = compose(gpu_cell(name, task.name, model.name, arm))
        assert (config.trainer.n_gpus_per_node, config.data.train_batch_size) == (gpus, batch)
        assert config.actor_rollout_ref.actor.ppo_mini_batch_size == mini
        assert (config.data.max_prompt_length, config.data.max_response_length) == (256, 256)
        assert config.algorithm.group_params.group_max_size == 8
        assert config.algorithm.group_params.group_variance_threshold == threshold
        assert model.params["repo"] == "Qwen/Qwen2.5-0.5B-Instruct"
