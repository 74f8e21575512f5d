"""Where a results folder keeps what, and a training run its files: every name of a folder or file, once."""

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
START = "start"
"""In the place of an arm: the checkpoint that every run of a task and model starts from."""


def cell_path(task: str, model: str, arm: str, seed: int | str | None) -> str:
    """<task>/<model>/<arm>/seed<N>, below runs/ or evals/; without a seed, as for the start, the arm's folder."""
    arm_path = f"{task}/{model}/{arm}"
    return arm_path if seed is None else f"{arm_path}/seed{seed}"


class RunFolder:
    """The folder of one training run. Attributes are paths, and constants the names of files and folders in it."""

    CONFIG = "config.yaml"  # verl's, resolved
    STATUS = "status.json"  # how the run ended, and the hashes of what it left
    STEPS = "steps.jsonl"  # metrics, one line a training step
    STAGES = "stages.jsonl"  # seconds and bytes, one line a stage
    PROVENANCE = "provenance.json"  # machine, software, source and inputs
    STARTED = "started.json"  # when the first attempt began
    LOG = "log.txt"
    STACKS = "stacks.txt"  # asks the run's processes for their stacks
    GPU, RAPL, USAGE_STAGES = "gpu.jsonl", "rapl.jsonl", "usage_stages.jsonl"  # readings of sensors
    CHECKPOINT = "checkpoint"  # the trained policy, a Hugging Face folder
    CRITIC = "critic"  # the trained critic, one with one label, where `train.save_critic` asks for it
    FAILED = "failed"  # what a failed attempt left: a workflow may delete the outputs of a job that failed

    def __init__(self, path: Path):
        self.path = path
        self.config, self.status, self.provenance = path / self.CONFIG, path / self.STATUS, path / self.PROVENANCE
        self.steps, self.stages, self.started = path / self.STEPS, path / self.STAGES, path / self.STARTED
        self.log, self.stacks = path / self.LOG, path / self.STACKS
        self.checkpoint, self.critic = path / self.CHECKPOINT, path / self.CRITIC

    @property
    def failed(self) -> "RunFolder":
        """What a failed attempt left."""
        return RunFolder(self.path / self.FAILED)


@dataclass(frozen=True)
class ResultsFolder:
    """The results of one benchmark. Constants are names of files and folders in it."""

    BENCHMARK = "benchmark.yaml"  # the resolved matrix
    STAMP = "preregistration.json"  # the registration of claims and matrix that the first run leaves

    path: Path

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def evals(self) -> Path:
        return self.path / "evals"

    @property
    def tables(self) -> Path:
        return self.path / "tables"

    def run(self, task: str, model: str, arm: str, seed: int | str) -> RunFolder:
        return RunFolder(self.runs / cell_path(task, model, arm, seed))

    def evaluation(self, task: str, model: str, arm: str, seed: int | str | None) -> Path:
        """The folder of an evaluation, of the start's without a seed."""
        return self.evals / cell_path(task, model, arm, seed)

    def start(self, task: str, model: str) -> Path:
        """The checkpoint that every run of a task and model starts from."""
        return self.path / "assets" / "starts" / task / model
