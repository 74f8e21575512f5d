"""Evaluation through lm-eval: right numbers, hashes of what they rest on, exact repeats, nothing left behind."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from groupppo.config import Evaluation
from groupppo.errors import BadInput
from groupppo.evaluate import evaluate
from groupppo.models.warmstart import warm_start
from groupppo.records.hashing import sha256_file, sha256_folder
from groupppo.tasks.reward import score
from groupppo.tasks.rows import read_examples
from groupppo.tasks.tokenizer import chat_ids


@pytest.fixture(scope="module")
def start(small_task, small_model_folder, small_task_folder, tmp_path_factory):
    """A small model that answers some prompts right and some wrong."""
    out = tmp_path_factory.mktemp("start")
    warm_start(small_task, small_model_folder, small_task_folder, out)
    return out


@pytest.fixture(scope="module")
def run(start, small_task, small_task_folder, tmp_path_factory):
    """Evaluate, into a new folder unless told; returns the folder and the result."""

    def run(seed=7, checkpoint=start, batch_size=16, out=None, temperature=1.0, **device):
        out = out or tmp_path_factory.mktemp("eval")
        result = evaluate(
            checkpoint,
            small_task,
            small_task_folder,
            out,
            Evaluation(batch_size=batch_size, repeats=3, sampled_prompts=10, seed=seed),
            model="mini",
            arm="start",
            training_seed=None,
            temperature=temperature,
            **device,
        )
        return out, result

    return run


@pytest.fixture(scope="module")
def evaluated(run):
    return run()


def samples(out, kind):
    (path,) = out.glob(f"samples_small_{kind}_*.jsonl")
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda row: row["doc_id"])


def test_the_result_file_holds_the_cell_its_metrics_and_hashes(evaluated, start, small_task_folder):
    out, result = evaluated
    written = json.loads((out / "result.json").read_text())
    assert {
        key: written[key] for key in ("task", "model", "arm", "seed", "n", "batch_size", "repeats", "eval_seed")
    } == {
        "task": "small",
        "model": "mini",
        "arm": "start",
        "seed": None,
        "n": 40,
        "batch_size": 16,
        "repeats": 3,
        "eval_seed": 7,
    }
    assert set(written["metrics"]) == {"accuracy", "mean@3"}
    assert written["metrics"]["accuracy"]["value"] == result.metrics["accuracy"].value
    assert written["data_sha256"] == sha256_file(small_task_folder / "test.parquet")
    assert written["yaml_sha256"] == sha256_folder(out / "lm_eval")
    assert written["lm_eval_version"] == "0.4.13"


def test_the_metrics_are_means_of_the_training_reward_of_the_logged_responses(evaluated, small_task_folder):
    out, result = evaluated
    answers = [example.answer for example in read_examples(small_task_folder / "test.parquet")]
    for kind, metric, repeats, prompts in [("greedy", "accuracy", 1, 40), ("sampled", "mean@3", 3, 10)]:
        responses = [row["resps"][0] for row in samples(out, kind)]
        assert {len(texts) for texts in responses} == {repeats}
        rewards = [
            sum(score(text, answer) for text in texts) / repeats
            for texts, answer in zip(responses, answers[:prompts], strict=True)
        ]
        assert result.metrics[metric].n == len(rewards)
        assert result.metrics[metric].value == pytest.approx(sum(rewards) / len(rewards))
        assert 0 < result.metrics[metric].value < 1
        assert result.metrics[metric].stderr > 0


def test_prompts_reach_the_model_as_they_do_in_training(evaluated, start, small_task_folder):
    out, _ = evaluated
    tokenizer = AutoTokenizer.from_pretrained(start)
    for row, example in zip(samples(out, "greedy"), read_examples(small_task_folder / "test.parquet"), strict=True):
        text = row["arguments"]["gen_args_0"]["arg_0"]
        assert tokenizer.encode(text) == chat_ids(tokenizer, example.prompt)


def test_the_same_seed_repeats_every_response_and_another_changes_only_sampled_ones(evaluated, run):
    first, again, other = (responses(out) for out in (evaluated[0], run()[0], run(seed=8)[0]))
    assert first == again
    assert first["greedy"] == other["greedy"]
    assert first["sampled"] != other["sampled"]


# Fields of published generation configs, and others that `generate` obeys without a word.
HIDDEN = {
    "repetition_penalty": 1.3,
    "do_sample": True,
    "temperature": 0.2,
    "top_p": 0.5,
    "top_k": 2,
    "min_p": 0.4,
    "min_new_tokens": 9,
    "no_repeat_ngram_size": 2,
    "suppress_tokens": [20, 21],
    "num_beams": 2,
}


@pytest.fixture(scope="module")
def instructed(start, tmp_path_factory):
    """The start with the generation config of a published model."""
    folder = shutil.copytree(start, tmp_path_factory.mktemp("instructed") / "model")
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | HIDDEN))
    return folder


def responses(out):
    return {kind: [row["resps"] for row in samples(out, kind)] for kind in ("greedy", "sampled")}


def test_nothing_hidden_in_a_generation_config_changes_a_response(evaluated, run, instructed):
    assert responses(run(checkpoint=instructed)[0]) == responses(evaluated[0])


def test_it_would_if_evaluation_let_it(evaluated, run, start, instructed, tmp_path, monkeypatch):
    monkeypatch.setattr("groupppo.evaluate.decode_as_trained", lambda model, tokenizer: None)
    whole, plain = responses(run(checkpoint=instructed)[0]), responses(evaluated[0])
    assert all(whole[kind] != plain[kind] for kind in plain)
    penalised = shutil.copytree(start, tmp_path / "penalised")
    file = penalised / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 1.3}))
    assert responses(run(checkpoint=penalised)[0])["greedy"] != plain["greedy"]


def test_a_response_ends_at_every_end_token_that_the_model_publishes(run, start, tmp_path):
    """As in vLLM; here at the mark before an answer, so that none is right."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    (mark,) = tokenizer.encode("#", add_special_tokens=False)
    ended = shutil.copytree(start, tmp_path / "ended")
    file = ended / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": [mark]}))
    out, result = run(checkpoint=ended)
    assert result.metrics["accuracy"].value == 0
    texts = [text for ((text,),) in responses(out)["greedy"]]
    assert all("#" not in text[:-1] for text in texts)
    assert sum(text.endswith("#") for text in texts) > len(texts) / 2


def test_the_sampled_part_has_the_temperature_of_training(evaluated, run):
    """So low a temperature that the likeliest token is drawn, as in greedy decoding."""
    out, _ = run(temperature=1e-4)
    cold = responses(out)
    assert cold["greedy"] == responses(evaluated[0])["greedy"]
    for (texts,), (greedy,) in zip(cold["sampled"], cold["greedy"][:10], strict=True):
        assert set(texts) == set(greedy)
    assert responses(evaluated[0])["sampled"] != cold["sampled"]


def test_the_checkpoint_hash_ignores_warm_start_logs_but_no_other_file(evaluated, run, start, tmp_path):
    quiet, changed = (shutil.copytree(start, tmp_path / name) for name in ("quiet", "changed"))
    (quiet / "warmstart.json").unlink()
    (changed / "generation_config.json").write_text('{"eos_token_id": 4, "pad_token_id": 0}')
    assert run(checkpoint=quiet)[1].checkpoint_sha256 == evaluated[1].checkpoint_sha256
    assert run(checkpoint=changed)[1].checkpoint_sha256 != evaluated[1].checkpoint_sha256


def test_a_second_evaluation_replaces_the_files_of_the_first(evaluated, run):
    out, first = evaluated
    before = {path.name for path in out.iterdir()}
    run(out=out)
    assert len(list(out.iterdir())) == len(before) == 5
    assert (
        json.loads((out / "result.json").read_text())["metrics"]["accuracy"]["value"] == first.metrics["accuracy"].value
    )


def test_a_missing_checkpoint_and_one_without_tokenizer_are_refused(run, start, tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        run(checkpoint=tmp_path / "none")
    bare = shutil.copytree(start, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        run(checkpoint=bare)


@pytest.mark.parametrize("asked", [{}, {"device": "cuda"}])
def test_the_benchmarks_device_is_used_and_not_a_gpu_that_happens_to_be_there(run, monkeypatch, asked):
    class Asked(Exception):
        pass

    def model(*, device, **others):
        raise Asked(device)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM", model)
    with pytest.raises(Asked, match=asked.get("device", "cpu")):
        run(**asked)
