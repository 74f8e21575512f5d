"""The check of a GPU, on a CPU: what it needs, what makes it red, what it does about crashes, and its sealed record."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement
from triton.errors import TritonError
from typer.testing import CliRunner

from groupppo.algorithm import kernels
from groupppo.cli.__main__ import app
from groupppo.cli.gpu_check import main
from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.measure.mfu import peak_of
from groupppo.profile import bench, gpu, gpu_check
from groupppo.profile.config import load_profile
from groupppo.profile.gpu import Place, Row
from groupppo.profile.gpu_check import Check, Record, answer, decided, digest, run_checks
from groupppo.publish.verify import verify
from groupppo.records.folders import RunFolder
from groupppo.report.gpu import gpu_page
from groupppo.tasks.hub_data import published_faults
from groupppo.update.variants import FAILED, MEASURED, NO_MEMORY, NOT_RUN

BARE = ("torch", "transformers", "numba", "triton", "jsonschema", "psutil")
"""What a bare GPU machine has, with what these need themselves; typer needs pydantic, and is not of any use without."""
HIDDEN = (
    *("pydantic", "msgspec", "pandas", "matplotlib", "PIL"),
    *("verl", "ray", "vllm", "tensordict", "datasets", "pynvml"),
)


def needed(names: tuple[str, ...]) -> Iterator[str]:
    """The files and folders of packages, and of all that they need, in this environment."""
    todo, seen = list(names), {"pydantic"}
    while todo:
        name = re.sub("[-_.]+", "-", todo.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        yield from {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}
        wanted = map(Requirement, package.requires or ())
        todo += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]


@pytest.fixture(autouse=True)
def nothing_stays_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs allow the folders that were named, in this process and those that it starts."""
    monkeypatch.setenv("GROUPPPO_ALLOW", "")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a Python that has the packages of a bare machine, this repository, and nothing else."""
    place, site = tmp_path_factory.mktemp("bare"), Path(torch.__file__).parents[1]
    for name in needed(BARE):
        if (site / name).exists() and not (place / name).exists():
            (place / name).symlink_to(site / name)
    return {"PYTHONPATH": f"{place}{os.pathsep}{REPOSITORY}", "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}


def run_bare(bare: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-S", *arguments], env=bare, capture_output=True, text=True)


@pytest.fixture(scope="session")
def checked(bare: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all checks on a bare machine."""
    out = tmp_path_factory.mktemp("gpu")
    done = run_bare(bare, "-m", "groupppo.cli.gpu_check", "--device", "cpu", "--small", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "was not tried: runs (not installed: verl, ray" in done.stdout
    return out


def record_of(folder: Path) -> dict:
    return json.loads((folder / gpu_check.FILE).read_text())


def test_a_bare_machine_lacks_what_the_checks_must_not_need(bare: dict[str, str]) -> None:
    code = f"from importlib.util import find_spec; print([find_spec(name) is None for name in ('torch', *{HIDDEN})])"
    assert run_bare(bare, "-c", code).stdout.strip() == str([False] + [True] * len(HIDDEN))


def test_every_check_but_runs_of_verl_holds_on_a_bare_machine(checked: Path) -> None:
    rows = [Row(**row) for row in record_of(checked)["rows"]]
    assert list(dict.fromkeys(row.check for row in rows)) == list(gpu_check.NAMES)
    assert {row.status for row in rows if row.check in ("machine", "recursions", "exact", "loop", "updates")} == {
        MEASURED
    }
    assert {row.name for row in rows if row.check == "recursions"} >= {"loop published", "rule random", "segment_gae"}
    served = {row.name: row.numbers.get("kernel", row.status) for row in rows if row.check == "attention"}
    gathered = "tiny Qwen2, gathered (+ last layer)"
    assert served[f"{gathered}, as torch chooses"] == "flash_attention_for_cpu"
    assert served[f"{gathered}, math"] == "products"
    assert served[f"{gathered}, cudnn attention"] == NOT_RUN
    assert [row.status for row in rows if row.check == "runs"] == [NOT_RUN]


def test_the_page_says_what_works_loads_nothing_and_is_small(checked: Path) -> None:
    page = (checked / "report.html").read_text()
    assert record_of(checked)["answer"].split(" works")[0] in page
    assert len(page) < 200_000
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    for words in ("Gradients in float32", "at least 0.1", "Counted / found", "say nothing about a GPU"):
        assert words in page


def written(folder: Path, record: dict, *, seal: bool = False) -> Path:
    if seal:
        record["sha256"] = digest(record)
    file = folder / "gpu_check.json"
    file.write_text(json.dumps(record))
    return file


def test_a_record_is_verified_and_one_that_was_edited_is_not(checked: Path, tmp_path: Path) -> None:
    assert verify(checked).ok
    record = record_of(checked)
    number = next(row for row in record["rows"] if row["check"] == "updates")
    number["numbers"]["seconds"] /= 10
    assert [each.check for each in verify(written(tmp_path, record)).differences] == ["checksums"]
    number["numbers"]["gradient_norm"] = 0
    found = verify(written(tmp_path, record, seal=True))
    assert [(each.check, each.place) for each in found.differences] == [("derived", f"updates: {number['name']}")]
    record = record_of(checked) | {"answer": "All works."}
    assert [each.place for each in verify(written(tmp_path, record, seal=True)).differences] == ["answer"]
    record = record_of(checked) | {"more": 1}
    assert [each.check for each in verify(written(tmp_path, record, seal=True)).differences] == ["schemas"]
    assert verify(written(tmp_path, record_of(checked))).ok
    (tmp_path / "report.html").write_text((checked / "report.html").read_text().replace("holds", "fails", 1))
    assert [each.place for each in verify(tmp_path).differences] == ["report.html"]
    assert CliRunner().invoke(app, ["verify", str(tmp_path)]).exit_code == 1
    assert CliRunner().invoke(app, ["verify", str(checked)]).exit_code == 0


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("cpu", True, tmp_path, time.monotonic() + 600)


def test_a_strangers_record_stands_for_nothing_else_and_is_read_within_bounds(place: Place, monkeypatch) -> None:
    monkeypatch.setattr(gpu_check, "checks", lambda _: [])
    run_checks(place)
    folder, record = place.out, record_of(place.out)
    page, file = folder / "report.html", folder / gpu_check.FILE
    (folder / "SHA256SUMS").touch()
    assert verify(folder).kind == "unpacked bundle"
    assert not verify(folder).ok
    (folder / "SHA256SUMS").unlink()
    assert verify(folder).ok
    assert verify(folder).kind == "GPU check"
    for link in (page, file):
        link.unlink(missing_ok=True)
        link.symlink_to("elsewhere" if link == page else written(folder.parent, record))
        with pytest.raises(BadInput, match=f"{link.name}: file = 'a link'"):
            verify(folder)
        link.unlink()
        written(folder, record)
    many = [{"check": "x", "name": str(number), "numbers": {str(number): 1}} for number in range(200)]
    with pytest.raises(BadInput, match="more than 20,000 cells"):
        verify(written(folder, record | {"rows": many}, seal=True))


@pytest.mark.parametrize(
    "wrong", [{"rows": 3}, {"version": 2}, {"rows": [{"check": "x"}]}, {"seconds": "long"}, {"format": "a bundle"}]
)
def test_what_is_no_record_is_refused(checked: Path, tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(BadInput, match=str(tmp_path)):
        verify(written(tmp_path, record_of(checked) | wrong, seal=True))


def failures(rows: Iterator[Row]) -> list[str]:
    return [row.name for row in map(decided, rows) if row.status != MEASURED]


def late(variant, model, batch, prepared):
    """The loss of the profile, of endpoints one token late where they are gathered."""
    if variant.name == "gathered":
        batch = replace(batch, endpoints=(batch.endpoints + 1).clamp(max=len(batch.rows) - 1))
    return bench.loss(variant, model, batch, prepared)


def test_endpoints_one_token_late_turn_the_gradients_red(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "loss", late)
    assert failures(gpu.exact(place)) == ["gradient: gathered", "gradient, checkpointing: gathered"]


def test_a_wrong_gradient_turns_updates_red(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = bench.loss
    monkeypatch.setattr(gpu, "UPDATES", ("dense", "masked", "dense_fused", "gathered"))
    monkeypatch.setattr(bench, "loss", lambda variant, *rest: stock(variant, *rest) * (1.1 if variant.cut else 1.0))
    assert failures(gpu.updates(place, "tiny Qwen2", False)) == ["tiny Qwen2: gathered"]


def test_one_token_that_is_grouped_otherwise_turns_grouping_red(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = kernels.published

    def off_by_one(*tensors):
        return stock(*tensors).roll(1, 1)

    monkeypatch.setattr(kernels, "published", off_by_one)
    assert failures(gpu.recursions(place)) == ["loop published"]


def test_a_kernel_that_torch_offers_and_cannot_run_is_named_and_plain_products_that_fail_are_red() -> None:
    def fail() -> None:
        raise RuntimeError("cuDNN Frontend error: no valid execution plans built. And more")

    assert gpu._refused(fail, needed=False) == "cuDNN Frontend error: no valid execution plans built"
    with pytest.raises(RuntimeError, match="execution plans"):
        gpu._refused(fail, needed=True)


def test_updates_of_other_projects_come_last_and_dense_stands_once(place: Place, monkeypatch) -> None:
    def measured(place, setting, label):
        return iter([Row("updates", f"{label}: {name}") for name in setting.variants])

    monkeypatch.setattr(gpu, "_measured", measured)
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 1e12)
    rows = list(gpu.updates(replace(place, small=False), "Qwen2.5-0.5B", True))
    found = [row.name.removeprefix("Qwen2.5-0.5B, checkpointing: ") for row in rows]
    assert sorted(found) == sorted(gpu.UPDATES)
    assert found[-2:] == ["verl_fused", "verl_triton"]
    assert "verl_fused" not in [row.name.rpartition(" ")[2] for row in gpu.updates(place, "tiny Qwen2", True)]


@pytest.mark.parametrize("error", [TritonError("out of resource: shared memory"), ImportError("undefined symbol")])
def test_another_projects_head_that_fails_leaves_the_other_updates(place: Place, monkeypatch, error) -> None:
    stock = bench.loss

    def broken(variant, *rest):
        if variant.name == "dense_fused":
            raise error
        return stock(variant, *rest)

    monkeypatch.setattr(gpu, "UPDATES", ("dense", "dense_fused"))
    monkeypatch.setattr(bench, "loss", broken)
    rows = [decided(row) for row in gpu.updates(place, "tiny Qwen2", False)]
    assert [(row.status, row.reason) for row in rows] == [(MEASURED, ""), (FAILED, str(error))]


def crash(_: Place) -> Iterator[Row]:
    yield Row("crash", "before")
    os.kill(os.getpid(), signal.SIGKILL)


def fail(_: Place) -> Iterator[Row]:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
    yield


def linger(_: Place) -> Iterator[Row]:
    yield Row("linger", "before", {"seconds": float("nan")}, {"seconds": (0, None)})
    time.sleep(60)


def overflow(_: Place) -> Iterator[Row]:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
    yield


def test_a_check_that_crashes_fails_or_does_not_end_is_a_row_and_the_others_go_on(place: Place, monkeypatch) -> None:
    parts = [
        Check("crash", 30, crash),
        Check("fail", 30, fail),
        Check("linger", 1, linger),
        Check("overflow", 30, overflow),
    ]
    parts += [Check("fine", 30, lambda _: iter([Row("fine", "all", {"error": 0.1}, {"error": (None, 0.2)})]))]
    monkeypatch.setattr(gpu_check, "checks", lambda _: parts)
    record = run_checks(place, [part.name for part in parts])
    found = [(row.check, row.name, row.status) for row in record.rows]
    assert found == [
        ("crash", "before", MEASURED),
        ("crash", gpu_check.ITSELF, gpu_check.CRASHED),
        ("fail", gpu_check.ITSELF, gpu_check.CRASHED),
        ("linger", "before", FAILED),
        ("linger", gpu_check.ITSELF, gpu_check.NO_TIME),
        ("overflow", gpu_check.ITSELF, NO_MEMORY),
        ("fine", "all", MEASURED),
    ]
    reasons = [row.reason for row in record.rows]
    assert reasons[1] == "SIGKILL"
    assert "illegal memory access" in reasons[2]
    assert reasons[3] == "seconds is no finite number"
    assert "works: fine (1 of 1); does not: crash" in record.answer
    assert verify(place.out).ok
    assert "illegal memory access" in gpu_page(record)


def test_when_the_time_is_over_what_is_left_is_named_as_not_run(place: Place) -> None:
    record = run_checks(replace(place, until=time.monotonic()), ["exact", "loop"])
    assert [(row.check, row.status, row.reason) for row in record.rows] == [
        ("exact", NOT_RUN, "no time was left"),
        ("loop", NOT_RUN, "no time was left"),
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_else_is_tried(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["gpu-check", "--out", str(tmp_path), "--only", "machine,exact"]).exit_code == 1
    rows = record_of(tmp_path)["rows"]
    assert [(row["check"], row["status"]) for row in rows] == [("machine", FAILED), ("exact", NOT_RUN)]
    assert "PyTorch sees no GPU" in rows[0]["reason"]
    with pytest.raises(BadInput, match="exact"):
        main(["--only", "exakt"])


def test_what_does_not_fit_is_not_started_and_its_gigabytes_are_told(place: Place, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 1000)
    [row] = gpu.updates(place, "tiny Qwen2", False)
    assert row.status == NO_MEMORY
    assert row.numbers["needed_bytes"] > row.numbers["free_bytes"] == 1000
    cuda = SimpleNamespace(mem_get_info=lambda: (70, 100), memory_reserved=lambda: 20, memory_allocated=lambda: 5)
    monkeypatch.setattr(torch, "cuda", cuda)
    assert bench.free_bytes("cuda") == 70 + 20 - 5


def test_a_dense_update_without_memory_leaves_the_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(setting, stock=gpu.measure_memory):
        if "dense" in setting.variants:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stock(setting)

    monkeypatch.setattr(gpu, "UPDATES", ("dense", "masked", "dense_fused", "gathered"))
    monkeypatch.setattr(gpu, "measure_memory", measured)
    rows = {row.name.removeprefix("tiny Qwen2: "): decided(row) for row in gpu.updates(place, "tiny Qwen2", False)}
    assert rows.pop("dense").status == NO_MEMORY
    assert {row.status for row in rows.values()} == {MEASURED}
    assert "norm_error" in rows["gathered"].numbers
    assert "norm_error" not in rows["dense_fused"].numbers  # there is nothing left to compare it with


def test_shapes_are_those_of_the_profile_and_mfu_is_of_the_card() -> None:
    known = load_profile(REPOSITORY / "benchmarks" / "profile.yaml").shapes
    assert {shape.title: shape.shape for shape in known.values() if shape.title in gpu.SHAPES} == gpu.SHAPES
    found = gpu._speed(4e12, 0.01, peak_of("NVIDIA H200"), credited=3e12)
    assert found["tflops_per_second"] == pytest.approx(400)
    assert found["mfu"] == pytest.approx(300 / 989.4)
    assert "mfu" not in gpu._speed(4e12, 0.01, peak_of("a card of tomorrow"))


@pytest.mark.parametrize(("gap", "steps", "status"), [(0.004, 5, MEASURED), (0.4, 5, FAILED), (0.004, 4, FAILED)])
def test_a_run_holds_if_it_made_its_steps_and_rollouts_agree_with_the_trainer(tmp_path, gap, steps, status) -> None:
    folder = RunFolder(tmp_path)
    folder.status.write_text(json.dumps({"steps": steps, "wall_seconds": 100.0, "startup_seconds": 60.0}))
    row = {"timing_s/step": 3.0, "actor/grad_norm": 1.5, "training/rollout_probs_diff_mean": gap}
    folder.steps.write_text("".join(json.dumps(row) + "\n" for _ in range(steps)))
    assert decided(gpu._run("grpo", folder, 5)).status == status


def test_runs_need_what_a_gpu_node_has(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name == "vllm" else name)
    [row] = gpu.runs(replace(place, device="cuda"))
    assert (row.status, row.reason) == (NOT_RUN, "not installed: vllm; docs/gpu.md says how")


def test_runs_take_model_and_data_from_folders_and_do_without_flash_attention(place: Place, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    matrix, model, task = gpu._five_steps(replace(place, small=False, model=place.out, data=place.out))
    assert (model.factory, model.params) == ("folder", {"path": str(place.out)})
    assert task.params["repo"] == str(place.out)
    assert (matrix.train.attention, matrix.train.steps, list(matrix.arms)[2]) == ("sdpa", 5, "group_ppo_gathered")
    assert not [fault for fault in published_faults(task) if fault.key == "params.repo"]  # allowed, for it was named
    monkeypatch.setattr(gpu, "find_spec", lambda name: name)
    assert gpu._five_steps(replace(place, small=False))[0].train.attention == "flash_attention_2"


def test_runs_that_could_not_end_in_time_are_not_started(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groupppo.tasks.build.build_task", lambda *_: None)
    monkeypatch.setattr("groupppo.models.build_model", lambda *_: 0)
    rows = list(gpu.runs(replace(place, until=time.monotonic() + 50)))
    assert [(row.name, row.status) for row in rows] == [(arm, NOT_RUN) for arm in ("ppo", "grpo", "group_ppo_gathered")]
    assert "--minutes" in rows[0].reason


@pytest.mark.parametrize(("key", "status"), [("resources.gpu_memory_gb", NO_MEMORY), ("resources.gpu", FAILED)])
def test_a_run_that_a_card_is_too_small_for_is_no_failure(place: Place, monkeypatch, key, status) -> None:
    def refuse(cell) -> None:
        raise BadInput("model.yaml", key, 24, "ask for a larger GPU.")

    monkeypatch.setattr("groupppo.tasks.build.build_task", lambda *_: None)
    monkeypatch.setattr("groupppo.models.build_model", lambda *_: 0)
    monkeypatch.setattr("groupppo.run.launch.train", refuse)
    assert [row.status for row in gpu.runs(place)] == [status] * 3


def test_a_smaller_card_is_planned_for_by_its_own_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch tells it of a card of 40 GB, and of one of 141."""
    for size, planned in ((42.4e9, 43), (150e9, 48)):
        cuda = SimpleNamespace(get_device_properties=lambda _, size=size: SimpleNamespace(total_memory=size))
        monkeypatch.setattr(torch, "cuda", cuda)
        model = gpu._five_steps(replace(place, device="cuda", small=False))[1]
        assert model.resources["gpu_memory_gb"] == planned


def test_the_answer_names_what_works_what_does_not_and_what_was_not_tried() -> None:
    rows = [
        Row("machine", "machine", {"gpu": "NVIDIA H200", "cpu": "EPYC"}),
        Row("updates", "dense", status=NO_MEMORY, reason="full"),
        Row("updates", "gathered", {"seconds": 1.0}),
        Row("exact", "gathered", {"relative_error": 1.0}, {"relative_error": (None, 0.1)}, FAILED, "above"),
        Row("runs", "verl", status=NOT_RUN, reason="not installed: verl"),
    ]
    assert answer(rows) == (
        "On NVIDIA H200 works: machine (1 of 1), updates (1 of 2; 1 out of memory); does not: exact (1 failed of 1); "
        "was not tried: runs (not installed: verl)."
    )
    sealed = Record("f", 1, "cpu", True, "now", 1, 1, {}, {}, tuple(rows), answer(rows), "")
    assert digest(asdict(sealed)) == digest(asdict(replace(sealed, sha256="other")))
    assert digest(asdict(sealed)) != digest(asdict(replace(sealed, seconds=2)))
