"""A Qwen2 small enough to train on one CPU core, with random weights and a byte-level vocabulary."""

from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from groupppo.models.tokenizer import byte_tokenizer, save_tokenizer


def tiny_qwen2(
    folder: Path,
    *,
    hidden_size: int,
    layers: int,
    attention_heads: int,
    key_value_heads: int,
    intermediate_size: int,
    max_position_embeddings: int,
    seed: int,
) -> int:
    """Write a Hugging Face folder: fp32 safetensors, tied embeddings, tokenizer, chat template, generation config.

    The same arguments give the same bytes. The vocabulary has exactly as many rows as the tokenizer has tokens:
    otherwise rollouts could sample tokens that the trainer cannot score.

    Returns:
        Number of parameters (115,584 for hidden size 64, 2 layers, 2 key-value heads and intermediate size 192).

    Raises:
        ValueError: `hidden_size` is not a multiple of `attention_heads`, or those not of `key_value_heads`.
    """
    if hidden_size % attention_heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of attention_heads {attention_heads}")
    if attention_heads % key_value_heads:
        raise ValueError(f"attention_heads {attention_heads} is not a multiple of key_value_heads {key_value_heads}")
    tokenizer = byte_tokenizer(max_position_embeddings)
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
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    # Without its own top_k = 0, `generate` would sample from the 50 likeliest tokens only.
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return model.num_parameters()
