"""Batches of tokens put together and taken apart."""

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from groupppo.algorithm import Tokens


def pool(batches: Sequence[Tokens]) -> Tokens:
    """Several batches as one, padded to the longest response; a field that one of them lacks is left out."""
    longest = max(batch.mask.shape[1] for batch in batches)
    pooled = {}
    for field in fields(Tokens):
        parts = [getattr(batch, field.name) for batch in batches]
        if all(part is not None for part in parts):
            pooled[field.name] = torch.cat([_widened(part, longest) for part in parts])
    return Tokens(**pooled)


def select(tokens: Tokens, rows: Tensor) -> Tokens:
    """Some of the responses, (k,) int64, at the same padded length."""
    parts = {field.name: getattr(tokens, field.name) for field in fields(Tokens)}
    return Tokens(**{name: part[rows] for name, part in parts.items() if part is not None})


def _widened(part: Tensor, length: int) -> Tensor:
    return part if part.dim() == 1 else torch.nn.functional.pad(part, (0, length - part.shape[1]))
