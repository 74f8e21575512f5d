"""The two models of a trained run as the study uses them: policy and critic, checked before they are loaded."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification

from groupppo.errors import BadInput
from groupppo.models.hub import check_model_folder

TRAIN_CRITIC = "train the reference arm with train.save_critic: true."


def load_policy(folder: Path, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """The trained policy in evaluation mode.

    Args:
        folder: a Hugging Face folder. attention: "sdpa", or "eager", whose backward pass torch can batch.

    Raises:
        BadInput: the folder is no complete model.
    """
    check_model_folder(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()


def load_critic(folder: Path) -> Any:
    """The trained critic, a token classifier with one label, in float32 and evaluation mode.

    Raises:
        BadInput: there is no such folder, or it holds another kind of model, whose value head would be random.
    """
    if not (folder / "config.json").is_file():
        raise BadInput(folder, "folder", None, TRAIN_CRITIC)
    config = AutoConfig.from_pretrained(folder)
    kinds = config.architectures or []
    if config.num_labels != 1 or not any(kind.endswith("ForTokenClassification") for kind in kinds):
        raise BadInput(folder / "config.json", "architectures", kinds, f"not a critic of one label; {TRAIN_CRITIC}")
    return AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
