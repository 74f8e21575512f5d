"""Which version of the recursions runs where, what it refuses, and how much memory it makes."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groupppo.algorithm import kernels
from groupppo.config import REPOSITORY

ROWS, TOKENS = 6, 11
GROUPS = """
import torch
from groupppo.algorithm import kernels
ones = torch.ones(1, 4, dtype=torch.float64)
options = {"orthogonal": True, "tau": 0.5, "epsilon": 1e-8, "cap": 2}
print(kernels.variance_split(ones, ones, ones.bool(), **options).tolist())
"""


class MadeTensors(TorchDispatchMode):
    """Records the elements of every tensor that any operation returns, and the storages they lie in."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[int] = []
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.elements.append(tensor.numel())
                self.storages.add(tensor.untyped_storage().data_ptr())
        return result


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randn(2, ROWS, TOKENS, generator=generator, dtype=torch.float64)
    return numbers[0].clone(), numbers[1].clone(), torch.rand(ROWS, TOKENS, generator=generator) < 0.8


def run_split(first: Tensor, second: Tensor, mask: Tensor, backend: str | None) -> Tensor:
    return kernels.variance_split(first, second, mask, orthogonal=False, tau=1.0, epsilon=1e-6, cap=4, backend=backend)


def run_literal(first: Tensor, second: Tensor, mask: Tensor, backend: str | None) -> Tensor:
    return kernels.literal(first, second, mask, orthogonal=True, backend=backend)


def run_published(first: Tensor, second: Tensor, mask: Tensor, backend: str | None) -> Tensor:
    return kernels.published(first.float(), second.float(), mask, backend=backend)


def run_gae(first: Tensor, second: Tensor, mask: Tensor, backend: str | None) -> tuple[Tensor, Tensor]:
    return kernels.segment_gae(first, second, mask, mask, 0.99, 0.95, backend=backend)


RUNS = [run_split, run_literal, run_published, run_gae]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_no_tensor_is_larger_than_the_batch(run: Callable[..., Any], backend: str) -> None:
    batch = inputs()
    with MadeTensors() as made:
        run(*batch, backend)
    assert made.elements
    assert max(made.elements) <= ROWS * TOKENS


def test_a_comparison_of_all_tokens_with_all_tokens_would_be_noticed() -> None:
    first, _, mask = inputs()
    with MadeTensors() as made:
        torch.tril(first[:, :, None] * mask[:, None, :])
    assert max(made.elements) == ROWS * TOKENS * TOKENS


def test_compiled_loops_read_strided_inputs_where_they_lie() -> None:
    strided = [tensor.t().contiguous().t() for tensor in inputs()]
    lying = {tensor.untyped_storage().data_ptr() for tensor in strided}
    with MadeTensors() as made:
        cause = run_split(*strided, "numba")
    assert made.storages - lying == {cause.untyped_storage().data_ptr()}
    with MadeTensors() as copied:
        run_split(*(tensor.contiguous() for tensor in strided), "numba")
    assert len(copied.storages - lying) > 1


def test_the_device_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.choose_backend(torch.device("cpu")) == "numba"
    assert kernels.choose_backend(torch.device("cuda")) == "triton"
    assert kernels.choose_backend(torch.device("meta")) == "torch"
    assert kernels.choose_backend(torch.device("cuda"), "torch") == "torch"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert kernels.choose_backend(torch.device("cuda")) == "torch"


@pytest.mark.parametrize("run", RUNS)
def test_left_alone_a_cpu_runs_the_compiled_version(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from groupppo.algorithm.kernels import compiled

    called = []
    for name in ("variance_split", "literal", "published", "segment_gae"):
        monkeypatch.setattr(compiled, name, lambda *args, name=name, **keys: called.append(name) or (args[0], args[1]))
    run(*inputs(), None)
    assert len(called) == 1
    run(*inputs(), "torch")
    assert len(called) == 1


@pytest.mark.parametrize("run", RUNS)
def test_an_unknown_backend_is_refused_with_the_choices(run: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"'cupy'.*numba, torch, triton, reference"):
        run(*inputs(), "cupy")


def test_a_backend_that_cannot_run_here_says_so() -> None:
    with pytest.raises(ValueError, match="'numba' needs CPU tensors"):
        kernels.choose_backend(torch.device("cuda"), "numba")


@pytest.mark.parametrize("run", RUNS)
def test_shapes_must_match(run: Callable[..., Any]) -> None:
    first, second, mask = inputs()
    with pytest.raises(ValueError, match="has shape"):
        run(first, second[:, :-1], mask, None)
    with pytest.raises(ValueError, match="two dimensions"):
        run(first[0], second[0], mask[0], None)


def test_a_dtype_that_would_round_elsewhere_is_refused() -> None:
    first, second, mask = inputs()
    with pytest.raises(TypeError, match=r"advantages is torch\.float32, needed is torch\.float64"):
        run_split(first.float(), second, mask, None)
    with pytest.raises(TypeError, match="scores"):
        kernels.published(first.float(), second, mask)
    with pytest.raises(TypeError, match="rewards"):
        run_gae(mask, second, mask, None)
    with pytest.raises(TypeError, match="values"):
        run_gae(first, mask.long(), mask, None)


def test_narrow_or_mixed_floats_are_widened_before_the_first_operation() -> None:
    first, second, mask = inputs()
    narrow = second.bfloat16()
    advantages, returns = run_gae(first.float(), narrow, mask, None)
    widened = run_gae(first.float(), narrow.float(), mask, None)
    assert advantages.dtype == returns.dtype == torch.float32
    assert torch.equal(advantages, widened[0])
    assert torch.equal(returns, widened[1])
    assert not torch.equal(advantages, run_gae(first.float(), second.float(), mask, None)[0])
    assert run_gae(first, second.float(), mask, None)[0].dtype == torch.float64


def test_kernels_run_where_neither_their_folder_nor_the_users_cache_can_be_written(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "groupppo", tmp_path / "groupppo", ignore=shutil.ignore_patterns("__pycache__"))
    # Files in the place of folders, which nobody can write into, root included.
    for name in ("groupppo/algorithm/kernels/__pycache__", "home"):
        (tmp_path / name).touch()
    places = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}
    variables = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | places
    command = [sys.executable, "-c", GROUPS]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[[1, 1, 1, 3]]\n", "")
