"""What a study is made of, how studies are found, run and read again.

A study measures something once for each task and model. Its folder `studies/NAME/TASK.MODEL` gets one CSV file for each
table, `study.json` with what was run, and `figures/`.
"""

import importlib
import io
import json
import resource
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
from pydantic import DirectoryPath, Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict, SettingsError

from groupppo.config import REPOSITORY, Benchmark
from groupppo.errors import BadInput, suggest
from groupppo.measure.provenance import software, source
from groupppo.records.hashing import sha256_file, sha256_model
from groupppo.records.plain_json import read_bytes
from groupppo.records.seal import KEY, seal

if TYPE_CHECKING:
    from groupppo.draw.blocks import Block, FigureBlock
    from groupppo.draw.figures import Picture

RECORD, FIGURES = "study.json", "figures"
LARGEST, _HEAD = 16 << 20, 2_000
"""Bytes of a table; of its head at most, and commas of a line."""
NO_RULE = "has no grouping rule"
"""Why an arm that is not about groups is left out."""
DENSE, DENSE_OTHER = "dense", "dense_other"
"""Dense PPO in the place of an arm, and on another batch than the one it is compared with: the noise floor."""
ENDPOINTS, WINDOW, SHARE, GATHERED = "endpoints", "window", "share", "gathered"
"""What flows through a streamed update next to the endpoints; `gathered` is the exact update."""
REUSE, RECOMPUTE, ALL = "reuse", "recompute", "all"
"""Where a streamed update has its keys and values from; the group of all parameters."""
_HOME = Path(__file__).resolve().parents[1]

Tables = Mapping[str, pd.DataFrame]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


def estimated(name: str, text: str, interval: str = "90 % t interval over batches") -> dict[str, str]:
    """Descriptions of a column and of the ends of its interval."""
    return {name: text, f"{name}_low": f"Lower end of its {interval}.", f"{name}_high": "Upper end."}


class Parameters(BaseSettings):
    """What every study is told; each field is an option of its command line, described by the text below it."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_prog_name="python -m groupppo.studies NAME",
    )

    task: Path
    """Folder of the built task."""
    out: Path
    """Folder for tables, figures and study.json."""

    @classmethod
    def settings_customise_sources(cls, settings_cls: Any, init_settings: Any, *_: Any, **__: Any) -> tuple[Any, ...]:
        """No parameter comes from the environment."""
        return (init_settings,)

    @property
    def arm_files(self) -> list[Path]:
        """The arms that the study may look at, whose hashes go into the record."""
        return []

    @property
    def models(self) -> dict[str, Path]:
        """Folders of the models by what each of them is."""
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but folders, as plain data."""
        plain = self.model_dump(mode="json")
        return {name: plain[name] for name in plain if not isinstance(getattr(self, name), Path | Mapping)}


class RolloutParameters(Parameters):
    """What every study on rollouts of trained policies is told."""

    critic: Path
    """Folder of the policy's critic (train.save_critic: true)."""
    arms: DirectoryPath = REPOSITORY / "benchmarks" / "arms"
    """Folder of arm files."""
    batches: Annotated[int, Field(ge=4)] = 24
    """Batches, each like a training step."""
    prompts: Annotated[int, Field(ge=1)] = 16
    """Distinct prompts in a batch."""
    responses: Annotated[int, Field(ge=1)] = 8
    """Responses to a prompt."""
    temperature: Positive = 1.0
    """Temperature of the sampling."""
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Discount of the training."""
    lam: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Lambda of the training."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of prompts and responses."""

    @property
    def arm_files(self) -> list[Path]:
        files = sorted(self.arms.glob("*.yaml"))
        if not files:
            raise BadInput(self.arms, "arms", None, "name a folder that holds arm files.")
        return files

    @property
    def models(self) -> dict[str, Path]:
        return {"critic": self.critic}


@dataclass
class Clock:
    """Wall-clock seconds of each stage, printed as it ends."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 2)
        print(f"{name}: {self.seconds[name]:.1f} s", flush=True)


@dataclass(frozen=True)
class Shown:
    """One run of a study, as its section of the page is made of it.

    Attributes:
        record: the content of study.json.
        tables: by name.
        figures: in their order.
        reference: title of the benchmark's reference arm.
        seed: the first seed of the task and model.
    """

    record: dict[str, Any]
    tables: Tables
    figures: Sequence["FigureBlock"]
    reference: str
    seed: int


@dataclass(frozen=True)
class Study:
    """A study: `STUDY` of its module.

    Attributes:
        name: of its module.
        title: heading of its section of the page.
        nav: its name in the page's contents.
        order: its place on the page, 60 to 69.
        parameters: what it is told.
        measure: from parameters and a clock to its tables and what `study.json` says besides, as plain data.
        columns: of each table, described.
        words: columns of words, in which an empty field is an empty word.
        show: what the page says of one run of it.
        figures: drawn from the tables.
        needs_trained: whether it needs the reference's trained policy and critic; else the start is enough.
        trains: whether it starts training runs, and so takes their resources.
        minutes: that a job may take.
    """

    name: str
    title: str
    nav: str
    order: int
    parameters: type[Parameters]
    measure: Callable[[Any, Clock], tuple[dict[str, pd.DataFrame], dict[str, Any]]]
    columns: Mapping[str, Mapping[str, str]]
    words: frozenset[str]
    show: Callable[[Shown], Sequence["Block"]]
    figures: Callable[[Tables], Sequence["Picture"]] | None = None
    needs_trained: bool = True
    trains: bool = False
    minutes: int = 30

    def parse(self, arguments: Sequence[str]) -> Parameters:
        """The parameters that a command line gives.

        Raises:
            BadInput: one is out of range.
            SystemExit: one is missing or unknown.
        """
        return self._checked(lambda: CliApp.run(self.parameters, cli_args=list(arguments)))

    def given(self, values: Mapping[str, Any]) -> Parameters:
        """The parameters with those of the values that the study has a field for; BadInput for one out of range."""
        known = {name: value for name, value in values.items() if name in self.parameters.model_fields}
        return self._checked(lambda: self.parameters(**known))

    def _checked(self, make: Callable[[], Parameters]) -> Parameters:
        try:
            return make()
        except ValidationError as error:
            first = error.errors()[0]
            name, value = str(first["loc"][0]), first["input"]
            shown = str(value) if isinstance(value, Path) else value
            raise BadInput(f"study {self.name}", f"--{name}", shown, f"{first['msg']}.") from error
        except SettingsError as error:
            raise BadInput(f"study {self.name}", "parameters", str(error), "write NAME=VALUE.") from error

    def write_table(self, folder: Path, name: str, rows: pd.DataFrame) -> None:
        """Write `<name>.csv` with the columns of its description, in that order; ValueError for rows with others."""
        described = list(self.columns[name])
        if set(rows.columns) != set(described):
            raise ValueError(f"table {name}: columns {sorted(rows.columns)}, documented are {sorted(described)}")
        rows[described].to_csv(folder / f"{name}.csv", index=False)

    def read_table(self, folder: Path, name: str) -> pd.DataFrame:
        """One table of a folder of the study.

        Raises:
            BadInput: the file is missing, is not CSV or has other columns.
        """
        file, described, again = folder / f"{name}.csv", list(self.columns[name]), "run the study again."
        content = read_bytes(file, "run the study first.", LARGEST)
        # Looked at first: a line of commas is a million columns, which take pandas minutes.
        head = content[:_HEAD].partition(b"\n")[0].decode(errors="replace").rstrip("\r").split(",")
        if head != described:
            hint = f"columns are {', '.join(described)}; {again}"
            raise BadInput(file, "columns", head[: len(described) + 1], hint)
        longer = BadInput(file, "rows", "longer than the head", f"not a CSV table; {again}")
        if any(line.count(b",") > _HEAD for line in io.BytesIO(content)):
            raise longer
        try:
            # Exactly what was written: the faster reader may miss the last digit.
            rows = pd.read_csv(io.BytesIO(content), float_precision="round_trip")
        except (ValueError, OverflowError) as error:
            raise BadInput(file, "file", str(error)[:300], f"not a CSV table; {again}") from error
        if list(rows.columns) != head or not isinstance(rows.index, pd.RangeIndex):
            raise longer
        return rows.assign(**{column: rows[column].fillna("") for column in rows if column in self.words})

    def read_tables(self, folder: Path) -> dict[str, pd.DataFrame]:
        """All tables of a folder of the study, by name; raises as `read_table`."""
        return {name: self.read_table(folder, name) for name in self.columns}

    def draw(self, tables: Tables, folder: Path, *, keep: bool = False) -> None:
        """Draw its figures into `figures/` of a folder of the study; with `keep`, pictures that are there stay."""
        from groupppo.draw.figures import write_figures

        if self.figures is not None:
            write_figures(self.figures(tables), folder / FIGURES, keep=keep)


def known_names() -> list[str]:
    """The studies that there are: the modules of `groupppo.studies`."""
    return sorted(file.stem for file in _HOME.glob("[a-z]*.py"))


def find_study(name: str, asked_by: str | Path = "groupppo.studies", key: str = "study") -> Study:
    """The study of a name; imports its module alone.

    Raises:
        BadInput: there is no such study; the error is about `key` of the file `asked_by`.
    """
    if name not in known_names():
        hint = f"{suggest(name, known_names())}Studies: {', '.join(known_names())}."
        raise BadInput(asked_by, key, name, hint)
    study: Study = importlib.import_module(f"groupppo.studies.{name}").STUDY
    if study.name != name:
        raise ValueError(f"groupppo/studies/{name}.py defines a study named {study.name}")
    return study


def study_faults(benchmark: Benchmark) -> Iterator[BadInput]:
    """What keeps a benchmark's studies from being run: an unknown name, or no trained critic where one is needed."""
    reference = benchmark.arms[benchmark.reference]
    for name in benchmark.studies:
        try:
            study = find_study(name, benchmark.source, "studies")
        except BadInput as fault:
            yield fault
            continue
        if study.needs_trained and not benchmark.train.save_critic:
            hint = f"write true: the study {name} needs the reference's critic."
            yield BadInput(benchmark.source, "train.save_critic", False, hint)
        elif study.needs_trained and not benchmark.trains_critic(reference):
            hint = f"name an arm with critic.enable: true, or leave the study {name} out, which needs its critic."
            yield BadInput(benchmark.source, "reference", reference.name, hint)


def planned(benchmark: Benchmark, task: str, model: str, folders: Mapping[str, Path]) -> dict[str, Any]:
    """What a benchmark says of one task and model, by names of parameters; `Study.given` takes those that it has.

    `folders` are `task` and `out`; where they are there, the `start` and the reference's `policy` and `critic`.
    """
    train = benchmark.train
    values = {
        "benchmark": benchmark.source,
        "model": model,
        "run_seed": benchmark.plan(task, model).seeds[0],
        "arms": benchmark.source.parent / "arms",
        "prompts": train.prompts_per_step,
        "responses": train.responses_per_prompt,
        "temperature": train.temperature,
        "gamma": train.gamma,
        "lam": train.lam,
        "actor_lr": train.actor_lr,
    }
    checkpoints = {name: folders[kind] for name, kind in (("start", "start"), ("trained", "policy")) if kind in folders}
    return values | dict(folders) | {"checkpoints": checkpoints}


def run_study(study: Study, parameters: Parameters) -> None:
    """Measure, and write tables, figures and `study.json` into `parameters.out`.

    The record has the command, settings, hashes of every input, software, cost, and what the study says besides.

    Raises:
        BadInput: a folder is missing or is not what it should be, or a parameter cannot be used.
        RunFailed: a training run that the study compares with failed.
    """
    clock, out = Clock(), parameters.out
    out.mkdir(parents=True, exist_ok=True)
    tables, found = study.measure(parameters, clock)
    for name, rows in tables.items():
        study.write_table(out, name, rows)
    with clock.stage("figures"):
        study.draw(tables, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    record = {
        "command": shlex.join(["python", "-m", "groupppo.studies", study.name, *CliApp.serialize(parameters)]),
        "settings": parameters.settings,
        **found,
        "inputs": {
            **{f"{name}_sha256": sha256_model(folder) for name, folder in parameters.models.items()},
            "prompts_sha256": sha256_file(parameters.task / "train.parquet"),
            "arms_sha256": {file.stem: sha256_file(file) for file in parameters.arm_files},
            "script_sha256": sha256_file(_HOME / f"{study.name}.py"),
        },
        "software": software(),
        "source": source(),
        "seconds": clock.seconds,
        "peak_bytes": peak,
        KEY: seal(out.glob("*.csv")),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (out / RECORD).write_text(text + "\n", encoding="utf-8")
    print(f"{out}: {sum(clock.seconds.values()):.0f} s, peak {peak / 1e9:.2f} GB")
