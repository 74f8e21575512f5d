"""vLLM takes the command line that verl builds for each kind of cell of the GPU matrices.

Here it is the build for CPUs; `make gpu-lock` asks the one that GPU nodes install.
"""

import sys
from dataclasses import replace

import pytest

from groupppo.config import load_benchmark
from tests.verl.vllm_engine import CONTROLS, Engine, cuda_matrices, engines_of, faults

pytestmark = pytest.mark.verl


@pytest.fixture(scope="module")
def engines() -> list[Engine]:
    made, said = engines_of(sys.executable)
    assert made, said
    return made


def test_vllm_makes_the_engine_that_the_files_of_each_cell_say(engines: list[Engine]) -> None:
    assert faults(engines) == []


def test_every_cell_of_every_gpu_matrix_is_of_a_kind_that_was_looked_at(engines: list[Engine]) -> None:
    matrices = [load_benchmark(file) for file in cuda_matrices()]
    assert {matrix.name for matrix in matrices} >= {
        "gsm8k",
        "math",
        "reasoning_gym",
        "origin_gsm8k",
        "origin_8gpu",
        "gpu_check",
    }
    cells = sum(len(plan.arms) for matrix in matrices for plan in matrix.plans())
    assert sum(engine.cells for engine in engines if engine.name not in CONTROLS) == cells
    models = {model for matrix in matrices for model in matrix.models}
    assert models == {engine.name.split("/")[-1] for engine in engines if engine.name not in CONTROLS}


@pytest.mark.parametrize("name", CONTROLS)
def test_what_vllm_does_not_take_is_refused(engines: list[Engine], name: str) -> None:
    (engine,) = [each for each in engines if each.name == name]
    assert CONTROLS[name] in str(engine.refused)
    assert faults([replace(engine, refused=None)])


def test_another_engine_than_the_files_say_is_a_fault(engines: list[Engine]) -> None:
    first = engines[0]
    assert faults([first]) == []
    assert faults([replace(first, found=first.found | {"max_model_len": 7})])
    assert faults([replace(first, refused="no GPU")])
    assert faults([first, replace(first, runner="V0")])
