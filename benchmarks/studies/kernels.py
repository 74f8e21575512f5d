"""What the recursions over tokens cost, as ratios of versions measured side by side in one process.

    python benchmarks/studies/kernels.py OUT.json [--rows 512 --tokens 4096 --rounds 7]

One thread, random inputs, every token valid. The versions of a comparison take turns within each round; a ratio is
taken within a round, and its median, least and greatest over the rounds are reported, beside the ratio of the two
versions' least seconds, which a busy machine disturbs least. Versions too slow for the whole
batch run on some of its rows, and their seconds are scaled by rows; the output says which and by how much.

Seconds are CPU seconds of the one thread. No version waits for anything, so on a quiet machine they are the wall's; on
a busy one wall seconds would favour the short version, which fits into one time slice. The output has both.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numba
import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_gae_advantage_return

from groupppo.algorithm import GroupParams, Tokens, group_tokens, kernels
from groupppo.algorithm.advantage import gae, segment_gae, whiten
from groupppo.algorithm.kernels.reference import CAP, CRITERION, END, NONE, variance_split_response
from groupppo.measure.provenance import machine, source

TAU, EPSILON, MOST = 1.0, 1e-6, 16
GAMMA, LAM = 0.99, 0.95
REFERENCE_ROWS = 16
SHAPES = ((128, 64), (64, 512))


@dataclass
class Version:
    """One way to compute something, and how long it took.

    Attributes:
        run: computes it on `rows` rows. of: rows of the whole batch.
        seconds, wall_seconds: per round, for `rows` rows; CPU seconds of the thread and wall seconds.
    """

    run: Callable[[], Any]
    rows: int
    of: int
    seconds: list[float] = field(default_factory=list)
    wall_seconds: list[float] = field(default_factory=list)

    def time(self) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        self.run()
        self.seconds.append(time.thread_time() - cpu)
        self.wall_seconds.append(time.perf_counter() - wall)

    def scaled(self) -> list[float]:
        return [second * self.of / self.rows for second in self.seconds]


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, numbers: list[float]) -> "Spread":
        return cls(statistics.median(numbers), min(numbers), max(numbers))


@dataclass(frozen=True)
class Ratio:
    """Seconds of one version over seconds of another, and the target for the median, if there is one."""

    name: str
    over: str
    under: str
    at_least: float | None = None
    at_most: float | None = None


def tensor_loop(advantages: Tensor, scores: Tensor) -> list[int]:
    """`variance_split` the way the origin is written: one response of (T,), a Python loop over 0-d tensors."""
    cause, size, previous = [NONE] * len(advantages), 0, 0
    p = q = torch.zeros((), dtype=advantages.dtype)
    for t in range(len(advantages)):
        a, s = advantages[t], scores[t]
        weighted = a * a * s
        grown_p, grown_q = p + weighted, q + s
        if size >= 1 and a * a * grown_q > TAU * (grown_p + EPSILON):
            cause[previous] = CRITERION
            size, p, q = 1, weighted, s
        else:
            size, p, q = size + 1, grown_p, grown_q
        if size == MOST:
            cause[t] = CAP
            size, p, q = 0, torch.zeros_like(p), torch.zeros_like(q)
        previous = t
    if size:
        cause[previous] = END
    return cause


def split_versions(rows: int, tokens: int) -> dict[str, Version]:
    """`variance_split` with orthogonal random scores; refuses to time versions that differ."""
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(rows, tokens, generator=generator, dtype=torch.float64)
    scores = torch.rand(rows, tokens, generator=generator, dtype=torch.float64)
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    some = min(rows, REFERENCE_ROWS)
    lists = list(zip(advantages[:some].tolist(), scores[:some].tolist(), mask[:some].tolist(), strict=True))

    def split(backend: str) -> Tensor:
        return kernels.variance_split(
            advantages, scores, mask, orthogonal=True, tau=TAU, epsilon=EPSILON, cap=MOST, backend=backend
        )

    def plain() -> list[list[int]]:
        return [variance_split_response(*response, True, TAU, EPSILON, MOST) for response in lists]

    compiled = split("numba")
    assert torch.equal(compiled, split("torch"))
    assert compiled[:some].tolist() == plain()
    assert compiled[0].tolist() == tensor_loop(advantages[0], scores[0])
    return {
        "numba": Version(lambda: split("numba"), rows, rows),
        "batched torch": Version(lambda: split("torch"), rows, rows),
        "plain Python floats": Version(plain, some, rows),
        "tensor loop": Version(lambda: tensor_loop(advantages[0], scores[0]), 1, rows),
    }


def stage_versions(rows: int, tokens: int) -> dict[str, Version]:
    """The advantage stage and its parts against verl's; verl's GAE includes its whitening."""
    generator = torch.Generator().manual_seed(1)
    rewards, values = torch.randn(rows, tokens, generator=generator), torch.randn(rows, tokens, generator=generator)
    full = torch.ones(rows, tokens, dtype=torch.long)
    mask, params = full.bool(), GroupParams(adaptive_threshold=False)

    def group_ppo() -> Tensor:
        dense = gae(rewards, values, mask, GAMMA, LAM)
        endpoints = group_tokens(Tokens(mask, advantages=dense), params).endpoints
        estimates = segment_gae(rewards, values, mask, endpoints, GAMMA, LAM)
        return whiten(estimates.advantages, endpoints.to(full.dtype))

    def stock() -> tuple[Tensor, Tensor]:
        return compute_gae_advantage_return(rewards, values, full, GAMMA, LAM)

    dense = gae(rewards, values, mask, GAMMA, LAM)
    assert torch.equal(whiten(dense, full), stock()[0])
    endpoints = group_tokens(Tokens(mask, advantages=dense), params).endpoints
    compiled, batched = (
        kernels.segment_gae(rewards, values, mask, endpoints, GAMMA, LAM, backend=backend)
        for backend in ("numba", "torch")
    )
    assert torch.equal(compiled[0], batched[0])
    assert torch.equal(compiled[1], batched[1])
    return {
        "segment_gae numba": Version(
            lambda: kernels.segment_gae(rewards, values, mask, endpoints, GAMMA, LAM, backend="numba"), rows, rows
        ),
        "group_ppo stage": Version(group_ppo, rows, rows),
        "verl dense gae": Version(stock, rows, rows),
    }


SPLIT_RATIOS = (
    Ratio("numba is faster than the tensor loop", "tensor loop", "numba", at_least=3000.0),
    Ratio("numba is faster than plain Python floats", "plain Python floats", "numba", at_least=20.0),
    Ratio("numba is faster than batched torch", "batched torch", "numba"),
)
STAGE_RATIOS = (
    Ratio("segment_gae numba is faster than verl dense gae", "verl dense gae", "segment_gae numba"),
    Ratio("group_ppo stage takes, of verl dense gae", "group_ppo stage", "verl dense gae", at_most=2.0),
)


def measure(
    what: str, rows: int, tokens: int, versions: dict[str, Version], ratios: tuple[Ratio, ...], rounds: int
) -> dict[str, Any]:
    """Time the versions in turns and print their table; what was measured, as plain data."""
    for version in versions.values():
        version.run()
    for _ in range(rounds):
        for version in versions.values():
            # A large allocation makes the C library tidy the heap that many small tensors left behind (4 ms after the
            # tensor loop). Made here, it is charged to no version.
            torch.zeros(rows, tokens, dtype=torch.int8)
            version.time()
    print(f"\n{what}, {rows} x {tokens}")
    table = {}
    for name, version in versions.items():
        spread = Spread.of(version.scaled())
        share = "" if version.rows == version.of else f"  (measured on {version.rows} rows of {version.of}, scaled)"
        print(f"  {name:46} {_milliseconds(spread)}{share}")
        table[name] = {
            "rows_measured": version.rows,
            "scaled_by": version.of / version.rows,
            "seconds_measured": version.seconds,
            "wall_seconds_measured": version.wall_seconds,
            "seconds_of_batch": asdict(spread),
        }
    found = {}
    for ratio in ratios:
        over, under = versions[ratio.over].scaled(), versions[ratio.under].scaled()
        spread = Spread.of([left / right for left, right in zip(over, under, strict=True)])
        met = _met(ratio, spread)
        of_least = min(over) / min(under)
        line = f"  {ratio.name:46} {spread.median:10.2f}x  [{spread.least:.2f}, {spread.greatest:.2f}]"
        print(f"{line}  of least {of_least:.2f}x{_verdict(ratio, met)}")
        found[ratio.name] = asdict(ratio) | asdict(spread) | {"of_least_seconds": of_least, "target_met": met}
    return {"what": what, "rows": rows, "tokens": tokens, "versions": table, "ratios": found}


def _met(ratio: Ratio, spread: Spread) -> bool | None:
    if ratio.at_least is not None:
        return spread.median >= ratio.at_least
    return None if ratio.at_most is None else spread.median <= ratio.at_most


def _verdict(ratio: Ratio, met: bool | None) -> str:
    if met is None:
        return ""
    bound = f"at least {ratio.at_least:g}" if ratio.at_least is not None else f"at most {ratio.at_most:g}"
    return f"  target {bound}: {'met' if met else 'MISSED'}"


def _milliseconds(spread: Spread) -> str:
    return f"{1e3 * spread.median:10.2f} ms  [{1e3 * spread.least:.2f}, {1e3 * spread.greatest:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numba": numba.__version__},
        "source": source(),
        "load_average_before": os.getloadavg(),
    }
    large = (options.rows, options.tokens)
    studies = [measure("variance_split", *large, split_versions(*large), SPLIT_RATIOS, options.rounds)]
    for shape in dict.fromkeys((*SHAPES, large)):
        studies.append(measure("advantage stage", *shape, stage_versions(*shape), STAGE_RATIOS, options.rounds))
    facts["load_average_after"] = os.getloadavg()
    options.out.write_text(json.dumps(facts | {"rounds": options.rounds, "studies": studies}, indent=2) + "\n")


if __name__ == "__main__":
    main()
