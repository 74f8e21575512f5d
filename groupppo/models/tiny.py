"""A Qwen2 small enough to train on one CPU core, with random weights and a byte-level vocabulary."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from groupppo.errors import ParamError

Size = Annotated[int, Field(ge=1, le=2**16)]


def tiny_qwen2(
    folder: Path,
    *,
    seed: int,
    hidden_size: Size,
    layers: Annotated[int, Field(ge=1, le=1000)],
    attention_heads: Size,
    key_value_heads: Size,
    intermediate_size: Size,
    max_position_embeddings: Annotated[int, Field(ge=1, le=2**20)],
) -> None:
    """Write a Hugging Face folder: fp32 safetensors, tied embeddings, tokenizer, chat template, generation config.

    The same arguments give the same bytes. The vocabulary has exactly as many rows as the tokenizer has tokens:
    otherwise rollouts could sample tokens that the trainer cannot score.
    """
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    from groupppo.tasks.tokenizer import byte_tokenizer, save_tokenizer

    tokenizer = byte_tokenizer(max_position_embeddings)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=attention_heads,
        num_key_value_heads=key_value_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        dtype="float32",
        **ends,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    # Without its own top_k = 0, `generate` would sample from the 50 likeliest tokens only.
    model.generation_config = GenerationConfig(**ends, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def checked_parameters(
    *, hidden_size: int, layers: int, attention_heads: int, key_value_heads: int, intermediate_size: int, **_: int
) -> int:
    """Parameters of the layers' large matrices.

    Raises:
        ParamError: heads do not divide the hidden size into even parts, or key heads do not divide the heads.
    """
    if hidden_size % (2 * attention_heads):
        hint = f"write an even number of times attention_heads, {attention_heads}: positions rotate pairs of channels."
        raise ParamError("hidden_size", hidden_size, hint)
    if attention_heads % key_value_heads:
        raise ParamError("key_value_heads", key_value_heads, f"write a divisor of attention_heads, {attention_heads}.")
    return layers * hidden_size * (2 * hidden_size + 3 * intermediate_size)
