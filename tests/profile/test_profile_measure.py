"""Measuring a setting: turns, rows for what fails, and files that say where they come from."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from groupppo.config import REPOSITORY
from groupppo.profile import bench as benches
from groupppo.profile import measure
from groupppo.update.variants import FAILED, MEASURED, NO_MEMORY, NOT_RUN


def results_of(content):
    return {result["variant"]: result for result in content["results"]}


def read(measured, name):
    return json.loads((measured.folder / name).read_text())


def test_every_round_has_every_variant_once_in_the_reverse_order_of_the_round_before(measured):
    content = read(measured, "tiny.seconds.json")
    orders = {}
    for result in content["results"]:
        for one in result["rounds"]:
            orders.setdefault(one["round"], {})[one["place"]] = result["variant"]
    first, second = ([names[place] for place in sorted(names)] for names in (orders[0], orders[1]))
    assert first == second[::-1]
    assert first != second
    ran = [name for name, result in results_of(content).items() if result["status"] == MEASURED]
    assert sorted(first) == sorted(ran)


def test_what_cannot_run_here_is_a_row_with_its_reason(measured):
    for what in ("seconds", "memory"):
        found = results_of(read(measured, f"tiny.{what}.json"))
        assert found["verl_triton"]["status"] == NOT_RUN
        assert "GPU" in found["verl_triton"]["reason"]
        assert found["dense"]["status"] == MEASURED
        assert found["dense"]["reason"] == ""
    assert list(found) == list(measured.profile.measured["tiny"].variants)


def test_result_files_carry_machine_software_source_and_command(measured):
    for what in ("seconds", "memory"):
        content = read(measured, f"tiny.{what}.json")
        assert content["command"] == "a test"
        assert content["machine"]["cpu_cores"] >= 1
        assert content["software"]["torch"]
        assert set(content["source"]) == {"commit", "uncommitted_sha256"}
        assert content["setting"]["shape"]["shape"]["hidden"] == 64


def test_equal_gradients_have_equal_norms_and_kept_keys_are_counted_apart(measured):
    found = results_of(read(measured, "tiny.memory.json"))
    masked = found["masked"]["gradient_norm"]
    assert found["gathered"]["gradient_norm"] == pytest.approx(masked, rel=0.01)
    assert found["gathered_head"]["gradient_norm"] == pytest.approx(masked, rel=0.01)
    assert found["dense"]["gradient_norm"] != pytest.approx(masked, rel=0.1)
    layers, tokens, kv, element = 3, 80, 2 * 16, 2
    assert found["streamed_reuse"]["held_bytes"] == layers * tokens * 2 * kv * element
    assert found["gathered"]["held_bytes"] == 0


def failing(error, variant="gathered"):
    stock = benches.loss

    def loss(chosen, *args):
        if chosen.name == variant:
            raise error
        return stock(chosen, *args)

    return loss


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("shapes do not match"), FAILED),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"), NO_MEMORY),
        (MemoryError(), NO_MEMORY),
    ],
    ids=["error", "allocator", "python"],
)
@pytest.mark.parametrize("what", ["seconds", "memory"])
def test_a_variant_that_fails_leaves_a_row_and_the_others_go_on(smoke, monkeypatch, what, error, status):
    setting = replace(smoke.measured["tiny"], variants=("dense", "gathered", "masked"))
    monkeypatch.setattr(benches, "loss", failing(error))
    found = results_of(measure.MEASURES[what](setting, command=""))
    assert found["gathered"]["status"] == status
    assert found["gathered"]["reason"] == " ".join(str(error).split())
    assert found["masked"]["status"] == MEASURED


def test_a_failure_of_the_reference_is_a_failure_of_the_setting(smoke, monkeypatch):
    setting = replace(smoke.measured["tiny"], variants=("dense", "gathered"))
    monkeypatch.setattr(benches, "loss", failing(RuntimeError("broken"), "dense"))
    with pytest.raises(RuntimeError, match="broken"):
        measure.measure_seconds(setting, command="")


def test_other_errors_are_not_taken_for_results(smoke, monkeypatch):
    setting = replace(smoke.measured["tiny"], variants=("dense", "gathered"))
    monkeypatch.setattr(benches, "loss", failing(ValueError("a mistake of ours")))
    with pytest.raises(ValueError, match="mistake"):
        measure.measure_seconds(setting, command="")


def test_a_variant_that_would_not_fit_is_not_started(smoke, monkeypatch):
    setting = replace(smoke.measured["tiny"], variants=("dense", "gathered"))
    bench = benches.Bench(setting)
    outcome = benches.Outcome("gathered")
    bench.prepare(benches.find("gathered"), outcome)
    assert outcome.status == MEASURED
    monkeypatch.setattr(benches.psutil, "virtual_memory", lambda: type("Free", (), {"available": 10}))
    bench.prepare(benches.find("gathered"), outcome)
    assert outcome.status == NO_MEMORY
    assert "not started" in outcome.reason


def test_the_command_line_writes_a_file_and_names_an_unknown_setting(tmp_path):
    out = tmp_path / "out" / "tiny_ckpt.memory.json"
    command = [sys.executable, "-m", "groupppo.profile.measure", "memory", "benchmarks/profile_smoke.yaml"]
    subprocess.run([*command, "tiny_ckpt", str(out)], check=True, cwd=REPOSITORY, capture_output=True)
    assert f"memory benchmarks/profile_smoke.yaml tiny_ckpt {out}" in json.loads(out.read_text())["command"]
    done = subprocess.run([*command, "tinny", str(out)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode != 0
    assert "name one of: tiny, tiny_ckpt" in done.stderr
