"""Files of benchmarks/ that other rooms act on: what a file of claims, a profile and a site file may hold."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from groupppo.config.files import AS_WRITTEN, UNIQUE, Count, Form, Maybe, Metric, Name, Names, Prose, Seed, Title

_Share = Annotated[float, Field(gt=0, lt=1), AS_WRITTEN]
_Bound = Annotated[float, Field(ge=-(10**9), le=10**9), AS_WRITTEN]
_Site = Annotated[str, Field(pattern="^[A-Za-z0-9_][A-Za-z0-9_.,:@+-]{0,199}$")]
_Density = Annotated[str, Field(pattern="^1(/[1-9][0-9]{0,6})?$")]


@dataclass(frozen=True)
class Region:
    """Open region of a quantity, in its unit; an end that is left out is infinite."""

    low: _Bound = -math.inf
    """Claimed at least."""
    high: _Bound = math.inf
    """Claimed at most."""

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"at least {self.low:.4g}"
        return f"at most {self.high:.4g}" if math.isinf(self.low) else f"{self.low:.4g} to {self.high:.4g}"


def _with_an_end(region: Region) -> Region:
    if math.isinf(region.low) and math.isinf(region.high):
        raise PydanticCustomError("no_end", "write low, high or both")
    return region


@dataclass(frozen=True, kw_only=True)
class ClaimEntry:
    """A claim under test."""

    id: Annotated[str, Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$", max_length=100)]
    """Short name in lower case, words joined by hyphens."""
    claim: Prose
    """The sentence under test."""
    source: Prose
    """Where the claim comes from."""
    reading: Prose
    """Which reading of GROUP-PPO the claim is about."""
    arm: Name
    """The arm that stands for this reading; a file in arms/."""
    against: Maybe[Name] = None
    """"reference", or the arm that it is paired with by seed."""
    quantity: Name
    """What is measured: one value per seed of training runs, (update_*) one variant of the profile, or (faults_*) a
    share counted in a study; the reference of claims lists them."""
    setting: Maybe[Name] = None
    """Setting of the profile, for quantities of one update."""
    variant: Maybe[Name] = None
    """Variant of the update in the profile, for quantities of one update."""
    stage: Maybe[Metric] = None
    """Stage of the step, for quantities of one stage."""
    metric: Maybe[Metric] = None
    """Held-out metric, for quantities of evaluations."""
    comparison: Prose
    """What is compared with what, in words."""
    claimed: Annotated[Region, AfterValidator(_with_an_end)]
    """The claimed region of the quantity: low, high or both."""
    margin: Maybe[Annotated[float, Field(ge=0, le=10**9), AS_WRITTEN]] = None
    """Widens the claimed region at each end, in the unit of the quantity; an identity has none."""
    rule: Literal["interval", "equivalence", "identity"]
    """How the verdict is reached."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)]
    """Steps at the start of each run that are left out."""
    evidence: Annotated[tuple[Literal["cpu", "gpu"], ...], Field(min_length=1), UNIQUE]
    """Devices whose runs may decide the claim."""
    needs_learning: bool
    """Whether the claim can only be tested where the reference learns."""
    figure: Maybe[Metric] = None
    """Id of the figure that shows the quantity."""
    what_would_change: Prose
    """What evidence would change the verdict."""


@dataclass(frozen=True)
class ClaimsFile(Form):
    """Claims under test, fixed before the runs."""

    level: _Share
    """Confidence of two-sided intervals; 0.90 makes each end a one-sided test at 5 %."""
    power: _Share
    """Chance of a decision that the seeds needed must give."""
    learning_metric: Metric
    """Held-out metric on which the reference must beat its own start."""
    claims: Annotated[tuple[ClaimEntry, ...], Field(min_length=1, max_length=100)]
    """One entry for each claim."""


@dataclass(frozen=True)
class ShapeEntry:
    """A decoder's sizes."""

    title: Title
    """Label in tables and figures."""
    family: Literal["qwen2", "qwen3", "llama"]
    """Architecture."""
    hidden: Count
    """Channels."""
    layers: Count
    """Decoder layers."""
    intermediate: Count
    """Channels inside the MLP."""
    heads: Count
    """Query heads."""
    kv_heads: Count
    """Key and value heads."""
    head_dim: Count
    """Channels of a head."""
    vocabulary: Count
    """Rows of the embedding."""
    tied: bool
    """Whether the head's weights are those of the embedding."""


@dataclass(frozen=True)
class CountedEntry:
    """What is counted from shapes, for every shape, with and without gradient checkpointing."""

    responses: Annotated[tuple[Count, ...], Field(min_length=1, max_length=100), UNIQUE]
    """Response lengths in tokens."""
    densities: Annotated[tuple[_Density, ...], Field(min_length=1, max_length=100), UNIQUE]
    """Endpoints per response token: fractions such as 1/16, every 16th token and the last one."""
    generation: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1), AS_WRITTEN], ...], Field(min_length=1, max_length=100), UNIQUE
    ]
    """Shares of a training step that generation takes."""
    need: Annotated[float, Field(gt=1, le=1_000_000), AS_WRITTEN]
    """The claimed speed-up whose requirements are worked out."""


@dataclass(frozen=True, kw_only=True)
class SettingEntry:
    """One model, one micro-batch, several variants of its update."""

    shape: str
    """Name of a shape."""
    response: Count
    """Tokens of the response."""
    density: _Density
    """A fraction such as 1/16: every 16th token and the last one are endpoints."""
    checkpointing: bool
    """Gradient checkpointing of every layer."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of weights and activations."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it runs."""
    threads: Annotated[int, Field(ge=1, le=4096)] = 1
    """Threads of the CPU."""
    rounds: Annotated[int, Field(ge=2, le=10_000)]
    """Times every variant runs, in turns; an interval needs at least 2."""
    variants: Annotated[Names, Field(min_length=1)]
    """Names of variants, dense among them; groupppo/update/variants.py lists them."""


@dataclass(frozen=True)
class TargetEntry:
    """A bound on one number of one variant."""

    setting: str
    """Name of a setting."""
    variant: str
    """One of its variants."""
    quantity: Literal[
        "flops_speedup",
        "seconds_speedup",
        "flops_of_bound",
        "seconds_of_bound",
        "memory_ratio",
        "memory_ratio_to_fused",
        "seconds_speedup_to_masked",
    ]
    """The number; ratios are to dense unless they say otherwise."""
    at_least: Maybe[Annotated[float, AS_WRITTEN]] = None
    """Least value that meets the target."""
    at_most: Maybe[Annotated[float, AS_WRITTEN]] = None
    """Greatest value that meets the target."""


def _bounded(target: TargetEntry) -> TargetEntry:
    if target.at_least is None and target.at_most is None:
        raise PydanticCustomError("no_bound", "write at_least, at_most or both")
    return target


@dataclass(frozen=True)
class ProfileFile(Form):
    """A profile, what an update costs at real model shapes."""

    name: Name
    """Folder name under results/; the file's own name."""
    title: Title
    """One line for the report."""
    prompt: Count
    """Tokens of the prompt before each response."""
    seed: Seed
    """Seed of random weights, tokens and advantages."""
    shapes: Annotated[dict[Name, ShapeEntry], Field(min_length=1)]
    """Model shapes by name."""
    counted: CountedEntry
    """What is counted from shapes, for every shape, with and without gradient checkpointing."""
    measured: Annotated[dict[Name, SettingEntry], Field(min_length=1)]
    """What is run, by name: each setting is one process on one shape."""
    targets: tuple[Annotated[TargetEntry, AfterValidator(_bounded)], ...]
    """What the measurements should show, written before they were made."""


@dataclass(frozen=True)
class SiteFile(Form):
    """A cluster, where `snakemake --profile slurm` sends jobs."""

    partition: Maybe[_Site] = None
    """Partition of jobs; without it the cluster's default."""
    gpu_partition: Maybe[_Site] = None
    """Partition of jobs on GPUs; without it the one of the others."""
    account: Maybe[_Site] = None
    """Account that is charged; without it the user's own."""
    qos: Maybe[_Site] = None
    """Quality of service."""
    constraint: Maybe[Annotated[str, Field(pattern=r"^[A-Za-z0-9_\[(][A-Za-z0-9_.,:&|*()\[\]-]{0,199}$")]] = None
    """Features that nodes must have."""
    gpu_type: Maybe[Annotated[str, Field(pattern="^[A-Za-z0-9_.]{1,100}$")]] = None
    """Type of GPU as `sinfo -o %G` shows it between the colons."""
    container: Maybe[Annotated[str, Field(pattern=r"^[A-Za-z0-9_./~][^\s;|&$`<>(){}\"'\\]*$", max_length=1000)]] = None
    """Image that jobs run in with --sdm apptainer: a file, or docker://..."""
    light_rules: Literal["local", "job"] = "local"
    """Where reports and other work of seconds runs: beside Snakemake, or in jobs."""
    longest_minutes: Maybe[Annotated[int, Field(ge=1, le=5_256_000)]] = None
    """The partitions' time limit: a retry asks for no more."""
    most_memory_mb: Maybe[Annotated[int, Field(ge=1, le=100_000_000)]] = None
    """Memory of the largest node: a retry asks for no more."""
    network_is_ours: bool = False
    """Nobody else reaches the nodes of a run while it trains, so that several of them, whose processes believe whoever
    connects, may train together."""
