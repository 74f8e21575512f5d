"""What the rollout servers are asked for: sampling parameters and seeds."""

import pytest
from groupppo.verl.agent_loop import sampling_seed
from groupppo.verl.transformers_rollout import as_request

from groupppo.errors import BadInput


@pytest.mark.parametrize(("key", "value"), [("top_p", 0.9), ("top_k", 5), ("repetition_penalty", 1.2)])
def test_sampling_this_server_does_not_do_is_refused(key: str, value: float) -> None:
    with pytest.raises(BadInput, match=key):
        as_request([1], {"temperature": 1.0, key: value}, max_tokens=4)


def test_sampling_seeds_differ_between_steps_prompts_responses_and_runs() -> None:
    seeds = {
        sampling_seed(run_seed=run, step=step, prompt=prompt, response=response)
        for run in range(3) for step in range(5) for prompt in range(10) for response in range(4)
    }  # fmt: skip
    assert len(seeds) == 3 * 5 * 10 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
