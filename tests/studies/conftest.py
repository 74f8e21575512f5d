"""A micro policy that ends its responses at different lengths, its critic, and rollouts of both."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForTokenClassification

from groupppo.algorithm import Tokens
from groupppo.studies.shared.rollouts import Rollouts, load_critic, load_policy, sample_rollouts, trainer_tokens
from groupppo.tasks.rows import read_examples
from groupppo.tasks.tokenizer import END

TEMPERATURE, GAMMA, LAM = 1.3, 0.95, 0.9


@pytest.fixture(scope="session")
def policy_folder(small_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with an end token that is drawn about once in ten tokens."""
    folder = tmp_path_factory.mktemp("policy") / "checkpoint"
    shutil.copytree(small_model_folder, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        hidden = model.model(torch.arange(5, 40)[None]).last_hidden_state[0].mean(0)
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(END)] += 3.5 * hidden / hidden.square().sum()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def critic_folder(policy_folder: Path) -> Path:
    torch.manual_seed(3)
    critic = Qwen2ForTokenClassification.from_pretrained(policy_folder, num_labels=1, dtype=torch.float32)
    with torch.no_grad():
        critic.score.weight.mul_(20.0)
    folder = policy_folder.parent / "critic"
    critic.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def policy(policy_folder: Path) -> Any:
    return load_policy(policy_folder, torch.float32)


@pytest.fixture(scope="session")
def exact_policy(policy_folder: Path) -> Any:
    return load_policy(policy_folder, torch.float64, attention="eager")


@pytest.fixture(scope="session")
def critic(critic_folder: Path) -> Any:
    return load_critic(critic_folder)


@pytest.fixture(scope="session")
def rollouts(policy: Any, policy_folder: Path, small_task_folder: Path) -> Rollouts:
    """Twelve responses to four prompts; one is made right, so that there is something to learn."""
    examples = read_examples(small_task_folder / "train.parquet")[:4]
    tokenizer = AutoTokenizer.from_pretrained(policy_folder)
    asked = [example for example in examples for _ in range(3)]
    drawn = sample_rollouts(policy, tokenizer, asked, 16, TEMPERATURE, seed=7)
    assert len(set(drawn.mask.sum(1).tolist())) > 3
    last = int(drawn.mask[1].sum()) - 1
    drawn.rewards[1, last] = 1.0
    return drawn


@pytest.fixture(scope="session")
def tokens(policy: Any, critic: Any, rollouts: Rollouts) -> Tokens:
    return trainer_tokens(policy, critic, rollouts, temperature=TEMPERATURE, gamma=GAMMA, lam=LAM)
