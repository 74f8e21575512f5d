"""A Qwen2 small enough to train on one CPU core, with random weights and a byte-level vocabulary."""

from pathlib import Path

from groupppo.errors import ParamError

VOCABULARY = 261  # tokens of the byte-level tokenizer


def tiny_qwen2(folder: Path, *, seed: int, **sizes: int) -> int:
    """Write a Hugging Face folder: fp32 safetensors, tied embeddings, tokenizer, chat template, generation config.

    The same arguments give the same bytes. The vocabulary has exactly as many rows as the tokenizer has tokens:
    otherwise rollouts could sample tokens that the trainer cannot score.

    Args:
        folder: made if missing.
        seed: of the weights.
        sizes: as of `parameters_of`.

    Returns:
        Number of parameters (115,584 for hidden size 64, 2 layers, 2 key-value heads and intermediate size 192).

    Raises:
        ParamError: as `parameters_of`.
    """
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    from groupppo.tasks.tokenizer import byte_tokenizer, save_tokenizer

    parameters_of(**sizes)
    tokenizer = byte_tokenizer(sizes["max_position_embeddings"])
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=sizes["hidden_size"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["attention_heads"],
        num_key_value_heads=sizes["key_value_heads"],
        intermediate_size=sizes["intermediate_size"],
        max_position_embeddings=sizes["max_position_embeddings"],
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
    return model.num_parameters()


def parameters_of(
    *,
    hidden_size: int,
    layers: int,
    attention_heads: int,
    key_value_heads: int,
    intermediate_size: int,
    max_position_embeddings: int,
) -> int:
    """Parameters of the model, counted; positions are rotated and have none.

    Raises:
        ParamError: heads do not divide the hidden size into even parts, or key heads do not divide the heads.
    """
    if hidden_size % attention_heads:
        raise ParamError("hidden_size", hidden_size, f"write a multiple of attention_heads, {attention_heads}.")
    if hidden_size // attention_heads % 2:
        hint = f"write an even number of times attention_heads, {attention_heads}: positions rotate pairs of channels."
        raise ParamError("hidden_size", hidden_size, hint)
    if attention_heads % key_value_heads:
        raise ParamError("key_value_heads", key_value_heads, f"write a divisor of attention_heads, {attention_heads}.")
    head = hidden_size // attention_heads
    keys_values = 2 * key_value_heads * head
    projections = 2 * hidden_size * hidden_size + (hidden_size + 1) * keys_values + hidden_size
    layer = projections + 3 * hidden_size * intermediate_size + 2 * hidden_size
    return VOCABULARY * hidden_size + layers * layer + hidden_size
