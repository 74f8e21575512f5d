"""The lm-eval task: the reward of training, and files that are the same on every machine."""

from dataclasses import replace

import yaml
from hypothesis import given
from hypothesis import strategies as st

from groupppo.tasks import lm_eval
from groupppo.tasks.reward import score
from groupppo.tasks.rows import read_examples

responses = st.lists(st.sampled_from(["#12", "1|2#12", "#21", "12", ""]), min_size=1, max_size=8)


@given(texts=responses)
def test_evaluation_rewards_are_the_training_rewards(texts):
    doc = {"prompt": "sort 21", "answer": "12"}
    rewards = [score(text, "12") for text in texts]
    assert lm_eval.process_greedy(doc, [texts]) == {"accuracy": rewards[0]}
    assert lm_eval.process_sampled(doc, [texts]) == {f"mean@{len(texts)}": sum(rewards) / len(texts)}


def test_the_settings_come_from_the_task_and_the_benchmark_and_no_path_is_named(small_task, tmp_path):
    class Loader(yaml.SafeLoader):
        """Reads `!function` as the name that follows it."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    task = replace(small_task, max_response_tokens=33, version="2.1")
    metrics = lm_eval.write_yaml(task, tmp_path, repeats=4, sampled_prompts=7, temperature=1)
    assert metrics == {"small_greedy": "accuracy", "small_sampled": "mean@4"}
    texts = [(tmp_path / f"{name}.yaml").read_text() for name in metrics]
    assert not any("/" in text for text in texts)  # the files are the same on every machine
    greedy, sampled = (yaml.load(text, Loader=Loader) for text in texts)
    assert greedy["generation_kwargs"] == {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 33}
    full = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    assert sampled["generation_kwargs"] == {"until": [], "max_gen_toks": 33} | full
    assert (greedy["repeats"], sampled["repeats"], sampled["filter_list"][0]["filter"][0]["k"]) == (1, 4, 4)
    assert greedy["metadata"] == {"version": "2.1"}
    assert sampled["metadata"] == {"version": "2.1", "first": 7}
    assert sampled["process_results"] == "groupppo.tasks.lm_eval.process_sampled"


def test_the_test_split_is_loaded_in_file_order(small_task_folder):
    path = small_task_folder / "test.parquet"
    loaded = lm_eval.load_test(test_file=str(path), version="1.0", config_source="anything")["test"]
    assert [row["prompt"] for row in loaded] == [example.prompt for example in read_examples(path)]
    assert set(loaded.column_names) == {"prompt", "answer", "size"}
    few = lm_eval.load_test(test_file=str(path), first=3)["test"]
    assert [row["prompt"] for row in few] == [row["prompt"] for row in loaded][:3]


def test_another_reward_goes_with_its_rows_and_judges_as_in_training(small_task, small_task_folder, tmp_path):
    task = replace(small_task, name="maths", reward="math")
    lm_eval.write_yaml(task, tmp_path, repeats=2, sampled_prompts=3, temperature=1.0)
    assert "  reward: math\n" in (tmp_path / "maths_greedy.yaml").read_text()
    test_file = str(small_task_folder / "test.parquet")
    assert set(lm_eval.load_test(test_file, reward="math")["test"]["reward"]) == {"math"}
    doc = {"prompt": "?", "answer": "1/2"}
    responses = [r"\boxed{0.5}", r"\boxed{2}"]
    assert lm_eval.process_sampled(doc | {"reward": "math"}, [responses]) == {"mean@2": 0.5}
    assert lm_eval.process_greedy(doc | {"reward": "math"}, [responses]) == {"accuracy": 1.0}
    assert lm_eval.process_greedy(doc, [responses]) == {"accuracy": 0.0}  # by the exact reward, which reads no boxes
