"""The Triton kernels: in Triton's interpreter, in the machine code they compile to, and on a GPU where there is one."""

import json
import os
import subprocess
import sys
from unittest.mock import MagicMock

import pytest
import torch

from groupppo.algorithm import kernels
from groupppo.config import REPOSITORY
from tests.algorithm.kernels.cases import Batch, every_cause, same_bits

CHECKS = ["ratio_rules", "ties", "published", "segment_gae", "many_rows"]


def run_module(module: str, *arguments: str, **environment: str) -> str:
    """Standard output of `python -m tests.algorithm.kernels.<module>`; its errors fail the test."""
    command = [sys.executable, "-m", f"tests.algorithm.kernels.{module}", *arguments]
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=REPOSITORY, env=inherited | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("check", CHECKS)
def test_kernels_in_the_interpreter_agree_with_the_reference(check: str) -> None:
    assert run_module("interpreted", check, TRITON_INTERPRET="1") == "held"


def test_without_interpreter_or_gpu_the_backend_is_refused() -> None:
    ones = torch.ones(1, 2)
    with pytest.raises(ValueError, match="'triton' needs CUDA tensors"):
        kernels.published(ones, ones, ones.bool(), backend="triton")


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    cache = tmp_path_factory.mktemp("triton")
    found = json.loads(run_module("machine_code", TRITON_CACHE_DIR=str(cache)))
    return {name: set(operations) for name, operations in found.items()}


def test_machine_code_rounds_after_every_operation(arithmetic: dict[str, set[str]]) -> None:
    launched = {name: operations for name, operations in arithmetic.items() if "as launched" in name}
    assert len(launched) == 14
    for name, operations in launched.items():
        assert operations, name
        assert all(".rn." in operation and "ftz" not in operation for operation in operations), (name, operations)
        assert not any(operation.startswith("fma") for operation in operations), (name, operations)


def test_machine_code_with_fusion_allowed_would_not(arithmetic: dict[str, set[str]]) -> None:
    for name, operations in arithmetic.items():
        if "fused" in name:
            assert any(operation.startswith("fma") for operation in operations), name


def test_the_published_quotient_is_rounded_and_plain_division_is_not(arithmetic: dict[str, set[str]]) -> None:
    assert "div.rn.f32" in arithmetic["published sm_80 as launched"]
    assert "div.full.f32" in arithmetic["plain division"]


@pytest.mark.parametrize("name", ["variance_split", "literal", "published", "segment_gae"])
def test_every_launch_carries_the_options_that_were_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from groupppo.algorithm.kernels import cuda

    launch = MagicMock()
    monkeypatch.setattr(cuda, f"_{name}", launch)
    assert cuda.OPTIONS["enable_fp_fusion"] is False
    empty, mask = torch.zeros(40, 3), torch.ones(40, 3, dtype=torch.bool)
    split = {"orthogonal": True, "tau": 1.0, "epsilon": 0.0, "cap": 4}
    keys = {"variance_split": split, "literal": {"orthogonal": True}}.get(name, {})
    rest = (mask, mask, 1.0, 1.0) if name == "segment_gae" else (mask,)
    getattr(cuda, name)(empty, empty, *rest, **keys)
    launch.__getitem__.assert_called_once_with((2,))
    (call,) = launch.__getitem__.return_value.call_args_list
    assert call.kwargs.items() >= (cuda.OPTIONS | {"block": cuda.LANES}).items()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_on_a_gpu_agree_with_the_reference() -> None:
    generator = torch.Generator().manual_seed(1)
    numbers = (torch.randn(2, 300, 257, generator=generator, dtype=torch.float64) * 4).round() / 4
    batch = Batch(numbers[0], numbers[1], torch.rand(300, 257, generator=generator) < 0.9)
    there = Batch(*(tensor.cuda() for tensor in vars(batch).values()))
    for tau in (0.7, 1.0):
        for left, right in zip(
            every_cause(there, "triton", tau, 16), every_cause(batch, "numba", tau, 16), strict=True
        ):
            assert torch.equal(left.cpu(), right)
    found = kernels.published(there.first.float(), there.second.float(), there.mask)
    assert torch.equal(found.cpu(), kernels.published(batch.first.float(), batch.second.float(), batch.mask))
    for dtype in (torch.float32, torch.float64):
        gpu = kernels.segment_gae(there.first.to(dtype), there.second.to(dtype), there.mask, there.mask, 0.99, 0.95)
        cpu = kernels.segment_gae(batch.first.to(dtype), batch.second.to(dtype), batch.mask, batch.mask, 0.99, 0.95)
        assert all(same_bits(left.cpu(), right) for left, right in zip(gpu, cpu, strict=True))
