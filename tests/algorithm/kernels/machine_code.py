"""Compile the Triton kernels for GPUs that need not be present, and print the arithmetic of their PTX as JSON.

python -m tests.algorithm.kernels.machine_code
"""

import json
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from groupppo.algorithm.kernels import cuda

FLOAT, COUNT, CODE = "*fp64", "i32", "*i8"
SHAPE = {"rows": COUNT, "length": COUNT}
RATIOS = {"advantages": FLOAT, "scores": FLOAT, "mask": CODE}
GAE = dict.fromkeys(("rewards", "values"), FLOAT) | {"mask": CODE, "endpoints": CODE}
GAE |= dict.fromkeys(("gamma", "discount", "discount_lam", "advantages", "returns"), FLOAT)

SPLIT = (cuda._variance_split, RATIOS | {"parameters": FLOAT, "cause": CODE} | SHAPE | {"cap": COUNT})
LITERAL = (cuda._literal, RATIOS | {"cause": CODE} | SHAPE)
KERNELS = {
    "variance_split orthogonal": (*SPLIT, {"orthogonal": True}),
    "variance_split signed": (*SPLIT, {"orthogonal": False}),
    "literal orthogonal": (*LITERAL, {"orthogonal": True}),
    "literal signed": (*LITERAL, {"orthogonal": False}),
    "published": (
        cuda._published,
        {"advantages": "*fp32", "scores": "*fp32", "mask": CODE, "cause": CODE} | SHAPE,
        {},
    ),
    "segment_gae": (cuda._segment_gae, GAE | SHAPE, {}),
    "segment_gae float32": (
        cuda._segment_gae,
        {key: kind.replace("fp64", "fp32") for key, kind in GAE.items()} | SHAPE,
        {},
    ),
}

LAUNCHES = {"as launched": cuda.OPTIONS, "fused": cuda.OPTIONS | {"enable_fp_fusion": True}}


@triton.jit
def _divide_plainly(numbers, block: tl.constexpr):
    place = numbers + tl.arange(0, block)
    tl.store(place, 3.0 / tl.load(place))


def arithmetic(
    kernel, signature: dict[str, str], constants: dict[str, object], arch: int, options: dict[str, object]
) -> list[str]:
    """The floating-point additions, products, quotients and fused operations of a kernel's PTX, sorted."""
    constants = constants | {"block": cuda.LANES}
    source = ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    ptx = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options).asm["ptx"]
    return sorted(set(re.findall(r"\b(?:fma|add|sub|mul|div|rcp)\.[\w.]*f(?:32|64)\b", ptx)))


if __name__ == "__main__":
    found = {
        f"{name} sm_{arch} {how}": arithmetic(*kernel, arch, options)
        for name, kernel in KERNELS.items()
        for arch in (80, 90)
        for how, options in LAUNCHES.items()
    }
    found["plain division"] = arithmetic(_divide_plainly, {"numbers": "*fp32"}, {}, 80, cuda.OPTIONS)
    print(json.dumps(found))
