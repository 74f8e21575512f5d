"""Where a results folder keeps what, and a training run its files: every name of a folder or file, once.

results = ResultsFolder(Path("results/quick"))
run = results.run("sorting", "tiny", "ppo", 1)  # results/quick/runs/sorting/tiny/ppo/seed1
run.status, run.steps
"""

from dataclasses import dataclass
from pathlib import Path

START = "start"
"""In the place of an arm: the checkpoint that every run of a task and model starts from."""


def cell_path(task: str, model: str, arm: str, seed: int | str | None) -> str:
    """<task>/<model>/<arm>/seed<N>, below runs/ or evals/; without a seed, as for the start, the arm's folder."""
    arm_path = f"{task}/{model}/{arm}"
    return arm_path if seed is None else f"{arm_path}/seed{seed}"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one training run.

    Attributes:
        path: the folder. Constants are the names of files and folders in it.
    """

    CONFIG = "config.yaml"
    STATUS = "status.json"
    STEPS = "steps.jsonl"
    STAGES = "stages.jsonl"
    PROVENANCE = "provenance.json"
    STARTED = "started.json"
    LOG = "log.txt"
    STACKS = "stacks.txt"
    GPU = "gpu.jsonl"
    RAPL = "rapl.jsonl"
    USAGE_STAGES = "usage_stages.jsonl"
    CHECKPOINT = "checkpoint"
    CRITIC = "critic"
    FAILED = "failed"

    path: Path

    @property
    def config(self) -> Path:
        """verl's config, resolved."""
        return self.path / self.CONFIG

    @property
    def status(self) -> Path:
        """How the run ended, and the hashes of what it left."""
        return self.path / self.STATUS

    @property
    def steps(self) -> Path:
        """Metrics, one line a training step."""
        return self.path / self.STEPS

    @property
    def stages(self) -> Path:
        """Seconds and bytes of each stage, one line a stage."""
        return self.path / self.STAGES

    @property
    def provenance(self) -> Path:
        """Machine, software, source and inputs."""
        return self.path / self.PROVENANCE

    @property
    def started(self) -> Path:
        """When the first attempt of the run began."""
        return self.path / self.STARTED

    @property
    def log(self) -> Path:
        return self.path / self.LOG

    @property
    def stacks(self) -> Path:
        """Asks the run's processes for their stacks."""
        return self.path / self.STACKS

    @property
    def checkpoint(self) -> Path:
        """The trained policy, a Hugging Face folder."""
        return self.path / self.CHECKPOINT

    @property
    def critic(self) -> Path:
        """The trained critic, a Hugging Face token classifier with one label, where `train.save_critic` asks for it."""
        return self.path / self.CRITIC

    @property
    def failed(self) -> "RunFolder":
        """What a failed attempt left: a workflow may delete the outputs of a job that failed."""
        return RunFolder(self.path / self.FAILED)


@dataclass(frozen=True)
class ResultsFolder:
    """The results of one benchmark.

    Attributes:
        path: the folder. Constants are the names of files and folders in it.
    """

    BENCHMARK = "benchmark.yaml"
    VERDICTS = "verdicts.json"
    STAMP = "preregistration.json"
    RUNS = "runs"
    EVALS = "evals"
    TABLES = "tables"
    FIGURES = "figures"
    PROFILE = "profile"
    PILOT = "pilot"
    STUDIES = "studies"
    TASKS = "assets/tasks"
    MODELS = "assets/models"
    STARTS = "assets/starts"

    path: Path

    @property
    def benchmark(self) -> Path:
        """The resolved matrix."""
        return self.path / self.BENCHMARK

    @property
    def verdicts(self) -> Path:
        return self.path / self.VERDICTS

    @property
    def stamp(self) -> Path:
        """The registration of claims and matrix that the first run leaves."""
        return self.path / self.STAMP

    @property
    def runs(self) -> Path:
        return self.path / self.RUNS

    @property
    def evals(self) -> Path:
        return self.path / self.EVALS

    @property
    def tables(self) -> Path:
        return self.path / self.TABLES

    @property
    def figures(self) -> Path:
        return self.path / self.FIGURES

    def run(self, task: str, model: str, arm: str, seed: int | str) -> RunFolder:
        return RunFolder(self.runs / cell_path(task, model, arm, seed))

    def evaluation(self, task: str, model: str, arm: str, seed: int | str | None) -> Path:
        """The folder of an evaluation; of `START` without a seed."""
        return self.evals / cell_path(task, model, arm, seed)

    def task(self, name: str) -> Path:
        """The folder of a task's splits and card."""
        return self.path / self.TASKS / name

    def model(self, name: str) -> Path:
        """A model before its supervised start."""
        return self.path / self.MODELS / name

    def start(self, task: str, model: str) -> Path:
        """The checkpoint that every run of a task and model starts from."""
        return self.path / self.STARTS / task / model
