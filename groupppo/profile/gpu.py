"""What of this project a GPU can show in minutes: the checks of `groupppo gpu-check`, each of which yields rows.

All but `runs` need torch, transformers, numba and psutil alone. They drive what a training run drives: `algorithm`,
`update` and this room's measurements. What a row says is `judged` from its numbers and the bounds beside them, so that
whoever reads a record can judge it again. None of this has been run on a GPU by us.
"""

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from groupppo.algorithm import GroupParams, Tokens, group_tokens, kernels, known_rules
from groupppo.algorithm.kernels import reference
from groupppo.algorithm.loss import group_batch, policy_loss
from groupppo.errors import BadInput, GroupPPOError
from groupppo.measure.mfu import Peak, peak_of
from groupppo.measure.provenance import machine, software
from groupppo.profile import BYTES, ModelShape, Setting
from groupppo.profile.bench import Bench, Outcome, build_model, free_bytes, log_probs_of, loss
from groupppo.profile.measure import CudaProbe, HostProbe, count, measure_memory, measure_seconds
from groupppo.records.folders import REPOSITORY, RunFolder
from groupppo.update.flops import Shape, Work, update_flops
from groupppo.update.layout import Layout
from groupppo.update.memory import NOMINAL, update_bytes
from groupppo.update.network import run_inside
from groupppo.update.passes import Plan, policy_pass
from groupppo.update.variants import FAILED, MEASURED, NO_MEMORY, NOT_RUN, find

if TYPE_CHECKING:
    from groupppo.config import Benchmark, Model, Task

SHAPES = {
    "Qwen2.5-0.5B": Shape(896, 24, 4864, 14, 2, 64, 151936, tied=True),
    "Qwen2.5-1.5B": Shape(1536, 28, 8960, 12, 2, 128, 151936, tied=True),
}
"""As in benchmarks/profile.yaml, which needs pydantic to be read."""
SMALL = {"tiny Qwen2": Shape(64, 3, 160, 4, 2, 16, 1009, tied=True)}
EXACT = Shape(256, 4, 512, 4, 2, 64, 4096, tied=True)
NARROW, SINGLE = 0.02, 1e-4
"""Largest relative difference of equal gradients: of their norms in bfloat16, of the gradients in float32."""
LATE = 0.1
"""Least difference that endpoints one token late make: a check that cannot see them sees nothing."""
GAIN = 0.1
"""Least rise of the loop's mean reward, which begins at a quarter."""
Number = float | str | None
Bound = tuple[float | None, float | None]


@dataclass(frozen=True)
class Row:
    """One thing that was tried.

    Attributes:
        check, name: what. numbers: found, in the units that their names end with; None for one that is not finite.
        bounds: lowest and highest value of those that decide. status: one of `update.variants`. reason: why not.
    """

    check: str
    name: str
    numbers: Mapping[str, Number] = field(default_factory=dict)
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    status: str = MEASURED
    reason: str = ""


@dataclass(frozen=True)
class Place:
    """Where checks run.

    Attributes:
        device: "cuda" or "cpu". small: shapes of seconds on a CPU. out: the folder of results.
        until: on `time.monotonic`, when the ten minutes are over. model, data: folders for `runs`, in the hub's place.
    """

    device: str
    small: bool
    out: Path
    until: float
    model: Path | None = None
    data: Path | None = None

    @property
    def shapes(self) -> dict[str, Shape]:
        return SMALL if self.small else SHAPES

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    @property
    def peak(self) -> Peak | None:
        return peak_of(torch.cuda.get_device_name()) if self.device == "cuda" else None

    def setting(self, title: str, shape: Shape, variants: tuple[str, ...], **changed: Any) -> Setting:
        """One sequence of a model of this shape with random weights, an endpoint every 16 tokens (in small every 4)."""
        prompt, response, density = (16, 96, "1/4") if self.small else (128, 2048, "1/16")
        keys: dict[str, Any] = {"prompt": prompt, "response": response, "density": density, "checkpointing": False}
        keys |= {"name": title, "shape": title, "model": ModelShape(title, title, "qwen2", shape)}
        keys |= {"device": self.device, "rounds": 2 if self.small else 5, "variants": variants, "seed": 0}
        return Setting(**keys | changed)


def judged(numbers: Mapping[str, Number], bounds: Mapping[str, Bound]) -> str:
    """Which numbers are not within their bounds, in words; nothing where all are."""
    wrong = []
    for name, (low, high) in bounds.items():
        value = numbers.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            wrong.append(f"{name} is no finite number")
        elif low is not None and value < low:
            wrong.append(f"{name} {value:.3g} is below {low:.3g}")
        elif high is not None and value > high:
            wrong.append(f"{name} {value:.3g} is above {high:.3g}")
    return "; ".join(wrong)


def seen(place: Place) -> Iterator[Row]:
    """The machine and its software, and what it makes of one large product of matrices in bfloat16."""
    if place.device == "cuda" and not torch.cuda.is_available():
        hint = "PyTorch sees no GPU: install a CUDA build of it, check nvidia-smi and CUDA_VISIBLE_DEVICES."
        yield Row("machine", "machine", status=FAILED, reason=hint)
        return
    peak = place.peak
    known = {"peak_flops_per_second": peak.flops_per_second, "peak_source": peak.source} if peak else {}
    yield Row("machine", "machine", machine(place.device) | {"free_bytes": free_bytes(place.device)} | known)
    versions = software(place.device)
    for name in ("triton", "numba", "flash-attn", "liger-kernel", "nvidia-ml-py"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    yield Row("machine", "software", versions)
    side = 256 if place.small else 8192
    left = torch.randn(side, side, device=place.device, dtype=torch.bfloat16)
    probe = _probe(place)
    times = [probe.seconds(lambda: left @ left)["seconds"] for _ in range(6)]
    yield Row("machine", f"product of {side} x {side} in bfloat16", _speed(2 * side**3, median(times[1:]), peak))


def _probe(place: Place) -> "HostProbe | CudaProbe":
    return HostProbe() if place.device == "cpu" else CudaProbe()


def _speed(flops: float, seconds: float, peak: Peak | None, credited: float | None = None) -> dict[str, Number]:
    """Seconds, TFLOP/s, and MFU where the peak is known; `credited` leaves out what checkpointing computes again."""
    found: dict[str, Number] = {"seconds": seconds, "tflops_per_second": flops / seconds / 1e12}
    if peak is not None:
        found["mfu"] = (flops if credited is None else credited) / seconds / peak.flops_per_second
    return found


def recursions(place: Place) -> Iterator[Row]:
    """The loops over tokens as Python runs them, compiled, with tensors of the device; every rule there and here."""
    rows, length = (7, 33) if place.small else (64, 513)
    generator = torch.Generator().manual_seed(1)
    grid = partial(torch.rand, rows, length, generator=generator, dtype=torch.float64)
    mask, quarters, scores = grid() < 0.9, (grid() * 40 - 20).round() / 4, grid()
    split = {"orthogonal": True, "tau": 1.0, "epsilon": 1e-6, "cap": 16, "at": False}
    loops: list[tuple[str, torch.dtype, dict[str, Any]]] = [
        ("variance_split", torch.float64, split),
        ("literal", torch.float64, {"orthogonal": False}),
        ("published", torch.float32, {}),
    ]
    for name, dtype, keys in loops:
        inputs = [quarters.to(dtype), scores.to(dtype), mask]
        cause = np.zeros(mask.shape, dtype=np.int8)
        getattr(reference, name)(*(each.numpy() for each in inputs), *keys.values(), cause)
        there = [each.to(place.device) for each in inputs]
        found = getattr(kernels, name)(*there, **keys).cpu()
        began = time.perf_counter()
        getattr(kernels, name)(*there, **keys)
        yield _same(f"loop {name}", torch.from_numpy(cause), found, seconds=time.perf_counter() - began)
    log_probs = -grid()
    batch = Tokens(
        mask,
        advantages=quarters,
        rewards=grid(),
        values=grid(),
        log_probs=log_probs,
        rollout_log_probs=log_probs + 0.1 * grid() - 0.05,
        entropies=grid(),
        sum_pi_squared=grid(),
        seeds=torch.arange(rows),
    )
    moved = Tokens(**{name: each.to(place.device) for name, each in vars(batch).items() if each is not None})
    for name, rule in known_rules().items():
        params = GroupParams(rule=name, density=0.25 if "density" in rule.uses else None)
        here, on_device = (group_tokens(each, params) for each in (batch, moved))
        yield _same(f"rule {name}", here.cause, on_device.cause.cpu())
    params = GroupParams(rule="stride")
    learned = [group_batch(each, group_tokens(each, params), params, 0.99, 0.95) for each in (batch, moved)]
    yield _same("segment_gae", learned[0].returns, learned[1].returns.cpu())


def _same(name: str, expected: Tensor, found: Tensor, **numbers: Number) -> Row:
    numbers = {"tokens": expected.numel(), "different": int((expected != found).sum()), **numbers}
    return Row("recursions", name, numbers, {"different": (0, 0)})


def attention(place: Place) -> Iterator[Row]:
    """Which of torch's kernels serve the attention of each kind of pass, asked one by one, and which one it takes."""
    probe, backends = _probe(place), ("MATH", "", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION")
    for title, shape in place.shapes.items():
        # One layer at endpoints, and before it one of live rows where keys and values are constants.
        for name, layers in (("dense", 1), ("gathered", 1), ("streamed_reuse", 2)):
            thin = replace(shape, layers=layers, vocabulary=1024)
            bench, outcome, norm = Bench(place.setting(title, thin, (name,))), Outcome(name), math.nan
            bench.prepare(outcome)
            if outcome.status != MEASURED:
                yield Row("attention", f"{title}, {find(name).title}", status=outcome.status, reason=outcome.reason)
                continue
            for backend in backends:
                label = f"{title}, {find(name).title}, {backend.lower().replace('_', ' ') or 'as torch chooses'}"
                with sdpa_kernel(getattr(SDPBackend, backend)) if backend else nullcontext():
                    if reason := _refused(bench.passes(outcome), needed=backend in ("MATH", "")):
                        yield Row("attention", label, status=NOT_RUN, reason=reason)
                        continue
                    with count() as counted:
                        bench.passes(outcome)()
                    found = bench.gradient_norm
                    norm = found if backend == "MATH" else norm
                    rounds = range(1 if place.small else 3)
                    times = [probe.seconds(bench.passes(outcome))["seconds"] for _ in rounds]
                    rise = probe.rise(bench.passes(outcome))
                asked = sorted(each.removeprefix("aten._scaled_dot_product_") for each in counted.operations)
                names = [each for each in asked if "attention" in each and "backward" not in each]
                numbers: dict[str, Number] = {"kernel": ", ".join(names) or "products", "seconds": median(times)}
                numbers |= {"rise_bytes": rise, "norm_error": abs(found / norm - 1)}
                yield Row("attention", label, numbers, {"norm_error": (None, NARROW)})


def _refused(run: Callable[[], object], *, needed: bool) -> str:
    """Why torch has no attention kernel of the kind that it was told to take; nothing where the pass ran.

    A kernel may be there and fail, as cuDNN's does without a plan for a shape: no fault as long as none `needed` does.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            run()
        except RuntimeError as error:
            if needed:
                raise
            why = [str(each.message).partition(" (Triggered")[0] for each in said if "attention" in str(each.message)]
            return " ".join(dict.fromkeys(why)) or str(error).partition(". ")[0][:300]
    return ""


UPDATES = (
    *("dense", "masked", "dense_fused", "verl_fused", "verl_triton"),
    *("gathered_head_eager", "gathered", "streamed_recompute", "streamed_reuse"),
)


def updates(place: Place, title: str, checkpointing: bool) -> Iterator[Row]:
    """Updates at a real shape: seconds, operations, what the allocator saw beside the count, and equal gradients."""
    ours, others = (tuple(name for name in UPDATES if bool(find(name).package) is far) for far in (False, True))
    setting = place.setting(title, place.shapes[title], ours, checkpointing=checkpointing)
    label, weights = f"{title}{', checkpointing' if checkpointing else ''}", 2 * setting.model.shape.parameters
    if (needed := 2 * weights) > (free := free_bytes(place.device)):
        reason = f"not started: weights and gradients take {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free"
        yield Row("updates", label, {"needed_bytes": needed, "free_bytes": free}, status=NO_MEMORY, reason=reason)
        return
    yield from _measured(place, setting, label)
    if others and not place.small:
        # Last: what they import and compile may take the time that is left. Dense again, to compare with.
        again = _measured(place, replace(setting, variants=("dense", *others)), label)
        yield from (row for row in again if row.name != f"{label}: dense")


def _measured(place: Place, setting: Setting, label: str) -> Iterator[Row]:
    try:
        weighed, timed = measure_memory(setting), measure_seconds(setting)
    except torch.OutOfMemoryError as error:  # of the dense update, to which nothing else has to be compared
        held = {"peak_bytes": torch.cuda.max_memory_allocated(), "free_bytes": free_bytes(place.device)}
        yield Row("updates", f"{label}: dense", held, status=NO_MEMORY, reason=str(error))
        del error  # it holds the tensors
        rest = tuple(name for name in setting.variants if name != "dense")
        weighed, timed = (measure(replace(setting, variants=rest)) for measure in (measure_memory, measure_seconds))
    memory, seconds = ({each["variant"]: each for each in found["results"]} for found in (weighed, timed))
    clock = "seconds" if place.device == "cuda" else "cpu_seconds"
    for name in memory:
        failed = next((each[name] for each in (memory, seconds) if each[name]["status"] != MEASURED), None)
        if failed is not None:
            yield Row("updates", f"{label}: {name}", status=failed["status"], reason=failed["reason"])
            continue
        took = median(one["reading"][clock] for one in seconds[name]["rounds"])
        numbers, bounds = _update(place, setting, memory[name], took)
        against = "dense" if find(name).on == "response" else "masked"
        if find(name).exact and "gradient_norm" in memory.get(against, {}):
            numbers["norm_error"] = abs(memory[name]["gradient_norm"] / memory[against]["gradient_norm"] - 1)
            bounds["norm_error"] = (None, NARROW)
        yield Row("updates", f"{label}: {name}", numbers, bounds)


def _update(
    place: Place, setting: Setting, weighed: dict[str, Any], seconds: float
) -> tuple[dict[str, Number], dict[str, Bound]]:
    """The numbers of one variant, and that its gradient is one."""
    variant, work, shape = find(weighed["variant"]), Work(**weighed["work"]), setting.model.shape
    credited = sum(update_flops(shape, replace(work, checkpointing=False), variant.mode).values())
    numbers = _speed(weighed["flops"], seconds, place.peak, credited)
    numbers |= {key: weighed[key] for key in ("flops", "rise_bytes", "held_bytes", "gradient_norm")}
    if not variant.package:
        causes = update_bytes(shape, work, variant.mode, eager=variant.eager, element=BYTES[setting.dtype])
        counted = sum(causes.values())
        ratio = counted / weighed["rise_bytes"] if weighed["rise_bytes"] else None
        numbers |= {"counted_bytes": counted, "counted_over_found": ratio}
    return numbers, {"gradient_norm": (1e-12, None)}


def exact(place: Place) -> Iterator[Row]:
    """Whole gradients of equal updates at a small width, and that endpoints one token late would be seen."""
    torch.set_float32_matmul_precision("highest")  # NVIDIA's images allow products in TF32, by a variable
    names = ("dense", "masked", "dense_fused", "gathered_head", "gathered_head_cut", "gathered")
    response = 96 if place.small else 256
    for checkpointing in (False, True):
        changed = {"dtype": "float32", "checkpointing": checkpointing, "prompt": 32, "response": response}
        bench = Bench(place.setting("width 256", EXACT, names, **changed))
        found = {name: _gradient(bench, name) for name in names}
        label = "gradient, checkpointing" if checkpointing else "gradient"
        for name in names[2:]:
            expected = found["dense" if find(name).on == "response" else "masked"]
            yield _apart(f"{label}: {name}", found[name], expected, (None, SINGLE))
        values = log_probs_of(find("streamed_recompute"), bench.model, bench.batch, None)
        whole = log_probs_of(find("dense"), bench.model, bench.batch, None)[bench.batch.endpoints]
        yield _apart(f"values{label[8:]}: streamed_recompute", values, whole, (None, SINGLE))
        bench.batch = replace(bench.batch, endpoints=(bench.batch.endpoints + 1).clamp(max=response - 1))
        late = _gradient(bench, "gathered")
        yield _apart(f"{label}: endpoints one token late are seen", late, found["masked"], (LATE, None))


def _gradient(bench: Bench, name: str) -> Tensor:
    for parameter in bench.model.parameters():
        parameter.grad.zero_()
    loss(find(name), bench.model, bench.batch, None).backward()
    return torch.cat([parameter.grad.flatten() for parameter in bench.model.parameters()])


def _apart(name: str, found: Tensor, expected: Tensor, bound: Bound) -> Row:
    error = float((found - expected).detach().norm() / expected.detach().norm())
    return Row("exact", name, {"relative_error": error}, {"relative_error": bound})


def loop(place: Place) -> Iterator[Row]:
    """Reinforcement learning by gathered updates: sample, group, estimate, update; tokens below 16 of 64 earn 1."""
    torch.manual_seed(0)
    batch, prompt, length, steps = 64, 4, 24, 20 if place.small else 60
    shape, params = Shape(64, 2, 128, 4, 2, 16, 64, tied=True), GroupParams(rule="stride", group_max_size=4)
    build = partial(build_model, "qwen2", shape, dtype=torch.float32, checkpointing=False, device=place.device)
    model, rollout = build(seed=0), build(seed=0).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    mask = torch.ones(batch, length, dtype=torch.bool, device=place.device)
    starts = torch.arange(batch, device=place.device)[:, None] * (prompt + length) + prompt - 1
    rows = starts + torch.arange(length, device=place.device)
    sampled: dict[str, Any] = {"do_sample": True, "top_k": 0, "use_cache": True}
    sampled |= {"min_new_tokens": length, "max_new_tokens": length}
    rewards, norms, began = list[float](), list[float](), time.monotonic()
    for _ in range(steps):
        rollout.load_state_dict(model.state_dict())
        prompts = torch.randint(shape.vocabulary, (batch, prompt), device=place.device)
        sequences = rollout.generate(prompts, attention_mask=torch.ones_like(prompts), **sampled)
        reward = (sequences[:, prompt:] < 16).float()
        to_go = reward.flip(1).cumsum(1).flip(1)
        tokens = Tokens(mask, rewards=reward, values=to_go.mean(0, keepdim=True).expand_as(to_go).contiguous())
        groups = group_tokens(tokens, params)
        learned = group_batch(tokens, groups, params, gamma=1.0, lam=1.0)
        layout = Layout(sequences.flatten(), torch.full((batch,), prompt + length, device=place.device), packed=False)
        places = rows[groups.endpoints]
        labels = layout.input_ids[places + 1]
        log_probs, _ = run_inside(model, policy_pass(layout, places, labels, 1.0, Plan("gathered")))
        grid = torch.zeros_like(reward).masked_scatter(groups.endpoints, log_probs)
        objective = policy_loss(grid, grid.detach(), learned.advantages, learned.policy)
        optimizer.zero_grad()
        objective.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)))
        optimizer.step()
        rewards.append(float(reward.mean()))
    numbers: dict[str, Number] = {"steps": steps, "reward_first": rewards[0], "reward_last": median(rewards[-5:])}
    numbers |= {"gain": median(rewards[-5:]) - rewards[0], "gradient_norm_last": norms[-1]}
    numbers |= {"seconds": time.monotonic() - began}
    yield Row("loop", "a loop of gathered updates", numbers, {"gain": (GAIN, None), "gradient_norm_last": (None, None)})


def runs(place: Place) -> Iterator[Row]:
    """A run of verl of each arm of benchmarks/gpu_check.yaml, through the launcher of every run."""
    packages = ("verl", "ray") if place.device == "cpu" else ("verl", "ray", "vllm")
    if missing := [name for name in packages if find_spec(name) is None]:
        yield Row("runs", "verl", status=NOT_RUN, reason=f"not installed: {', '.join(missing)}; docs/gpu.md says how")
        return
    # Here alone: what reads a matrix and starts a run needs the whole lock.
    from groupppo.models import build_model as write_model
    from groupppo.run.launch import train
    from groupppo.tasks.build import build_task
    from groupppo.verl.compose import Cell

    matrix, model, task = _five_steps(place)
    task_folder, start = place.out / "assets" / task.name, place.out / "assets" / model.name
    try:
        build_task(task, task_folder)
        write_model(model, start)
    except GroupPPOError as error:
        yield Row("runs", "model and data", status=NOT_RUN, reason=str(error))
        return
    for arm in matrix.arms.values():
        limit = int(min(matrix.train.time_limit_s, place.left - _ENDING))
        if limit < _LEAST:
            yield Row("runs", arm.name, status=NOT_RUN, reason=f"{max(0, limit)} s were left; --minutes gives more")
            continue
        settings = replace(matrix.train, time_limit_s=limit)
        out = place.out / "runs" / arm.name
        shutil.rmtree(out, ignore_errors=True)
        try:
            train(Cell(task, model, arm, 1, settings, task_folder, start, out, matrix.device, matrix=matrix.source))
        except GroupPPOError as error:
            small = isinstance(error, BadInput) and error.key == "resources.gpu_memory_gb"
            yield Row("runs", arm.name, status=NO_MEMORY if small else FAILED, reason=str(error))
        else:
            label = f"{arm.name}, {settings.attention}" if matrix.device == "cuda" else arm.name
            yield _run(label, RunFolder(out), settings.steps)


def _five_steps(place: Place) -> tuple["Benchmark", "Model", "Task"]:
    """The matrix, and its model and task, read from folders where the user names some; in small, what a CPU can run."""
    from groupppo.config import FOLDER, load_benchmark
    from groupppo.config.allowed import VARIABLE

    matrix = load_benchmark(REPOSITORY / "benchmarks" / "gpu_check.yaml")
    if place.small:
        quick = load_benchmark(REPOSITORY / "benchmarks" / "quick.yaml")
        train = replace(quick.train, steps=2, prompts_per_step=4, responses_per_prompt=4, save_critic=False)
        matrix = replace(matrix, device="cpu", models=quick.models, tasks=quick.tasks, train=train)
    elif find_spec("flash_attn") is None:
        matrix = replace(matrix, train=replace(matrix.train, attention="sdpa"))
    [model], [task] = matrix.models.values(), matrix.tasks.values()
    if place.device == "cuda":  # the file names cards of 48 GB, and the count may find a smaller one enough
        held = torch.cuda.get_device_properties(0).total_memory / 1e9 / NOMINAL
        planned = model.resources["gpu_memory_gb"]
        model = replace(model, resources=model.resources | {"gpu_memory_gb": min(planned, int(held))})
    if place.model is not None:
        model = replace(model, factory=FOLDER, params={"path": str(place.model.absolute())})
    if place.data is not None:
        # The hub's copy names its configs there; bare files train and test are one.
        named = {} if (place.data / "README.md").is_file() else {"configs": ["default"]}
        task = replace(task, params=task.params | {"repo": str(place.data.absolute())} | named)
    # Who names a folder on the command line means it.
    os.environ[VARIABLE] = ",".join([os.environ.get(VARIABLE, ""), "params.path", "params.repo"])
    return matrix, model, task


_METRICS = {
    "step_seconds": "timing_s/step",
    "generation_seconds": "timing_s/gen",
    "policy_update_seconds": "timing_s/update_actor",
    "gradient_norm": "actor/grad_norm",
    "reward_mean": "reward/mean",
    "rollout_probs_diff_mean": "training/rollout_probs_diff_mean",
    "update_density": "group/update_density",
}
_ENDING, _LEAST = 15, 90
"""Seconds to end a run that is late, and seconds without which none is started: a GPU's begins with a minute."""
AGREE = 0.05
"""Largest mean difference of a token's probability between rollouts and trainer."""


def _run(arm: str, folder: RunFolder, steps: int) -> Row:
    """What a run that ended by itself wrote of its last steps, the first of which warm up."""
    status = json.loads(folder.status.read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in folder.steps.read_text(encoding="utf-8").splitlines()]
    numbers: dict[str, Number] = {key: status[key] for key in ("steps", "wall_seconds", "startup_seconds")}
    for name, metric in _METRICS.items():
        if found := [row[metric] for row in rows[steps // 2 :] if metric in row]:
            numbers[name] = median(found)
    bounds: dict[str, Bound] = {"steps": (steps, steps), "gradient_norm": (None, None)}
    return Row("runs", arm, numbers, bounds | {"rollout_probs_diff_mean": (None, AGREE)})
