"""What vLLM makes of every cell of the GPU matrices: verl's command line for it, parsed, and its engine config.

vLLM's platform is replaced by its own for CUDA with the answers of an H200, so that no GPU is needed and vLLM's build
for CPUs serves, too. A model's folder has the config that its file's shape says, and no weights. The process that
imports vLLM under this platform is of no other use:

    python -m tests.verl.vllm_engine OUT.json
"""

import asyncio
import contextlib
import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import yaml

from groupppo.config import REPOSITORY, Model, load_benchmark
from groupppo.models.tiny import tiny_qwen2
from groupppo.run.launch import environment
from groupppo.update.flops import Shape
from groupppo.verl.compose import Canvas, Cell, cells_to_check, compose

GPU_BYTES = 141 * 10**9
# By the organisation and series of a model's name on the hub: its family, and the positions that it is published with.
FAMILIES = {"Qwen/Qwen2.5": ("qwen2", 32768), "Qwen/Qwen3": ("qwen3", 40960), "meta-llama/Llama": ("llama", 131072)}
ARCHITECTURES = {family: f"{family.capitalize()}ForCausalLM" for family, _ in FAMILIES.values()}

DRIVER, DRIVERS_FUNCTIONS = "libcuda.so.1", ("cuGetProcAddress_v2", "cuPointerGetAttribute", "cuTensorMapEncodeTiled")

UNKNOWN, TOO_LONG = "an argument that vLLM does not know", "more positions than the model has"
# What vLLM says of cells that it must refuse.
CONTROLS = {UNKNOWN: "unrecognized arguments: --no-such-argument", TOO_LONG: "max_position_embeddings"}


@dataclass
class Engine:
    """What vLLM says of a kind of cells.

    Attributes:
        name: matrix, task and model of the first.
        cells: how many there are.
        expected: what the cell's files say of the engine.
        found: the same of vLLM's config, empty if refused.
        runner: of vLLM's model runners, the one that it takes.
        refused: what vLLM or its parser said.
    """

    name: str
    cells: int
    expected: dict[str, Any]
    found: dict[str, Any] = field(default_factory=dict)
    runner: str | None = None
    refused: str | None = None


def cuda_matrices() -> list[Path]:
    """The shipped benchmarks whose device is cuda."""
    files = sorted((REPOSITORY / "benchmarks").glob("*.yaml"))
    return [file for file in files if (yaml.safe_load(file.read_text()) or {}).get("device") == "cuda"]


def shapes() -> list[tuple[Cell, int]]:
    """One cell of each kind that vLLM sees, and how many cells are of that kind."""
    kinds: dict[str, list[Cell]] = {}
    for matrix in cuda_matrices():
        for cell in cells_to_check(load_benchmark(matrix), matrix.parent):
            said = {**cell.model.verl, **cell.train.verl, **cell.arm.verl}
            keys = {key: value for key, value in said.items() if key.startswith("actor_rollout_ref.rollout.")}
            kind = (cell.model.name, cell.task.max_prompt_tokens, cell.task.max_response_tokens, sorted(keys.items()))
            kinds.setdefault(repr(kind), []).append(cell)
    return [(cells[0], len(cells)) for cells in kinds.values()]


def fake_h200(gpus: int) -> None:
    """Put an H200 in the place of this machine's devices, for the whole process; call it before vLLM is used."""
    import groupppo.verl.cpu  # answers for the version of vLLM's build for CPUs, where that is installed

    _load_kernels()
    import torch
    import vllm.config.vllm
    import vllm.platforms
    from vllm.model_executor.models import ModelRegistry

    import groupppo.verl.vllm_rollout  # noqa: F401  with all of vLLM that a server is made of, which asks for kernels

    # Looked at in this process, and as long as vLLM finds its own kernels: else each in one of its own.
    for family, architecture in ARCHITECTURES.items():
        module = importlib.import_module(f"vllm.model_executor.models.{family}")
        ModelRegistry.register_model(architecture, getattr(module, architecture))
    from vllm.platforms.cuda import NonNvmlCudaPlatform
    from vllm.platforms.interface import DeviceCapability

    class H200(NonNvmlCudaPlatform):
        get_device_capability = classmethod(lambda cls, device_id=0: DeviceCapability(9, 0))
        get_device_name = classmethod(lambda cls, device_id=0: "NVIDIA H200")
        get_device_uuid = classmethod(lambda cls, device_id=0: f"GPU-{device_id}")
        get_device_total_memory = classmethod(lambda cls, device_id=0: GPU_BYTES)
        is_fully_connected = classmethod(lambda cls, physical_device_ids: True)
        device_count = classmethod(lambda cls: gpus)
        is_cumem_allocator_available = lambda self: True  # noqa: E731  a library of the build for GPUs
        log_warnings = classmethod(lambda cls: None)

    # In place: modules that are imported hold the object.
    vllm.platforms.current_platform.__class__ = H200
    vllm.config.vllm.HAS_TRITON = True  # which without a driver says no
    torch.cuda.device_count = lambda: gpus


def _load_kernels() -> None:
    """vLLM's own for GPUs, whose library asks for the driver's when it is loaded; a module where the build has none."""
    name = "vllm._C_stable_libtorch"
    if importlib.util.find_spec(name) is None:
        sys.modules[name] = ModuleType(name)
        return
    try:
        importlib.import_module(name)
    except ImportError:
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder) / "driver.c", Path(folder) / DRIVER
            source.write_text("".join(f"int {each}(void) {{ return 999; }}\n" for each in DRIVERS_FUNCTIONS))
            subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{DRIVER}", source, "-o", library], check=True)
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        importlib.import_module(name)


def write_model(model: Model, folder: Path, tokenizer: Path, positions: int | None = None) -> None:
    """The config of a model's file beside somebody else's tokenizer.

    Args:
        positions: the longest sequence; None for that of the publication.
    """
    from transformers import AutoConfig

    assert model.shape is not None
    family, published = next(entry for name, entry in FAMILIES.items() if model.params["repo"].startswith(name))
    config = AutoConfig.for_model(
        family,
        **Shape(**model.shape).as_config(),
        max_position_embeddings=positions or published,
        architectures=[ARCHITECTURES[family]],
        dtype="bfloat16",
    )
    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    config.save_pretrained(folder)


def parsed(config: Any) -> Namespace:
    """What vLLM's parser makes of the command line that verl's server gives it."""
    import ray
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.rollout.replica import RolloutMode

    from groupppo.verl.vllm_rollout import Server

    class Parsed(Server):
        async def run_server(self, args: Namespace) -> None:
            self.args = args

    rollout, gpus = config.actor_rollout_ref.rollout, config.trainer.n_gpus_per_node
    serves = rollout.tensor_model_parallel_size
    context = SimpleNamespace(get_job_id=lambda: "01000000")
    with (
        mock.patch.object(ray, "get_runtime_context", return_value=context),
        mock.patch.object(ray.util, "get_node_ip_address", return_value="127.0.0.1"),
        mock.patch.dict(os.environ),
    ):
        server = Parsed(
            config=rollout,
            model_config=omega_conf_to_dataclass(config.actor_rollout_ref.model),
            rollout_mode=RolloutMode.HYBRID,
            workers=[None] * serves,
            replica_rank=0,
            node_rank=0,
            gpus_per_node=gpus,
            nnodes=1,
            cuda_visible_devices=",".join(map(str, range(serves))),
        )
        asyncio.run(server.launch_server())
    return server.args


def engine_of(cell: Cell, cells: int, canvas: Canvas | None = None) -> Engine:
    """What vLLM says of a cell whose `start` holds its model's config."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    config = compose(cell, canvas)
    os.environ.update({key: value for key, value in environment(cell).items() if key.startswith("VLLM_")})
    rollout = config.actor_rollout_ref.rollout
    engine = Engine(
        f"{cell.matrix.stem}/{cell.task.name}/{cell.model.name}",
        cells,
        {
            "model": str(cell.start),
            "dtype": "torch.bfloat16",
            "load_format": "dummy",  # weights come from the trainer
            "max_model_len": cell.task.max_prompt_tokens + cell.task.max_response_tokens,
            "tensor_parallel_size": rollout.tensor_model_parallel_size,
            "gpu_memory_utilization": rollout.gpu_memory_utilization,
            "enable_sleep_mode": True,
            "logprobs_mode": "processed_logprobs",
            "seed": cell.seed,
            "worker_extension_cls": "groupppo.verl.vllm_rollout.WorkerExtension",
            "distributed_executor_backend": "mp",
            "device": "cuda",
            "cudagraph_mode": "FULL_AND_PIECEWISE",
        },
    )
    said = StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            made = AsyncEngineArgs.from_cli_args(parsed(config)).create_engine_config()
    except SystemExit:  # of the parser
        engine.refused = said.getvalue().strip().splitlines()[-1]
    except ValueError as error:
        engine.refused = " ".join(str(error).split())
    else:
        engine.found = _found(made)
        engine.runner = "V2" if made.use_v2_model_runner else "V1"
    return engine


def _found(made: Any) -> dict[str, Any]:
    """Of an engine's config what `Engine.expected` names."""
    model, parallel = made.model_config, made.parallel_config
    return {
        "model": model.model,
        "dtype": str(model.dtype),
        "load_format": str(made.load_config.load_format),
        "max_model_len": model.max_model_len,
        "tensor_parallel_size": parallel.tensor_parallel_size,
        "gpu_memory_utilization": made.cache_config.gpu_memory_utilization,
        "enable_sleep_mode": model.enable_sleep_mode,
        "logprobs_mode": str(model.logprobs_mode),
        "seed": model.seed,
        "worker_extension_cls": parallel.worker_extension_cls,
        "distributed_executor_backend": parallel.distributed_executor_backend,
        "device": made.device_config.device_type,
        "cudagraph_mode": made.compilation_config.cudagraph_mode.name,
    }


def engines(folder: Path) -> Iterator[Engine]:
    """Of every kind of cells; and of two that vLLM must refuse. Models are written to `folder`."""
    tokenizer = folder / "tokenizer"
    tiny_qwen2(
        tokenizer,
        hidden_size=32,
        layers=1,
        attention_heads=1,
        key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=64,
        seed=0,
    )
    fake_h200(gpus=8)
    canvas, last = Canvas(), None
    for cell, cells in shapes():
        start = folder / cell.model.name
        if not start.exists():
            write_model(cell.model, start, tokenizer)
        last = replace(cell, start=start)
        yield engine_of(last, cells, canvas)
    assert last is not None
    yield from _refused(last, folder, tokenizer)


def _refused(cell: Cell, folder: Path, tokenizer: Path) -> Iterator[Engine]:
    """Cells that differ in one thing from one that vLLM takes."""
    short = folder / "short"
    write_model(cell.model, short, tokenizer, positions=cell.task.max_response_tokens)
    unknown = {"actor_rollout_ref.rollout.engine_kwargs.vllm.no_such_argument": 1}
    for name, changed in {
        UNKNOWN: replace(cell, train=replace(cell.train, verl=cell.train.verl | unknown)),
        TOO_LONG: replace(cell, start=short),
    }.items():
        yield replace(engine_of(changed, 1), name=name)


def faults(engines: list[Engine]) -> list[str]:
    """What is not as it must be, a line each: vLLM refuses a cell or takes another setting, or takes a control."""
    wrong = []
    for engine in engines:
        control = CONTROLS.get(engine.name)
        if control is not None:
            if engine.refused is None or control not in engine.refused:
                wrong.append(f"{engine.name}: not refused for it, but {engine.refused}")
        elif engine.refused is not None:
            wrong.append(f"{engine.name}: refused, {engine.refused}")
        else:
            other = {
                key: engine.found.get(key) for key, value in engine.expected.items() if engine.found.get(key) != value
            }
            wrong += [f"{engine.name}: {key} = {value!r}, not {engine.expected[key]!r}" for key, value in other.items()]
    runners = {engine.runner: engine.name for engine in engines if engine.runner is not None}
    if len(runners) > 1:  # two programs, which draw differently
        wrong.append(f"several model runners: {', '.join(f'{key} of {name}' for key, name in sorted(runners.items()))}")
    return wrong


def engines_of(python: str) -> tuple[list[Engine], str]:
    """The engines that a Python's vLLM makes, in a process of its own, and what that process said."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "engines.json"
        variables = os.environ | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        command = [python, "-m", "tests.verl.vllm_engine", str(out)]
        done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True)
        rows = json.loads(out.read_text()) if out.is_file() else []
    return [Engine(**row) for row in rows], done.stdout + done.stderr


def main(out: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [asdict(engine) for engine in engines(Path(folder))]
    Path(out).write_text(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
