"""verl's batch, which lies in its transfer queue: reading, writing, and worker calls with a part of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.workers.utils.padding import response_to_nested

from groupppo.algorithm.loss import LossMask


def get_fields(batch: KVBatchMeta, fields: Sequence[str]) -> TensorDict:
    return tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(fields))


def put_fields(batch: KVBatchMeta, fields: dict[str, torch.Tensor], nested_mask: torch.Tensor) -> KVBatchMeta:
    """Write padded (B, T) tensors back as verl's nested ones, cut to the lengths of `nested_mask`."""
    nested = {name: response_to_nested(tensor, nested_mask) for name, tensor in fields.items()}
    written = TensorDict(nested, batch_size=len(batch))
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=written)


def mask_fields(mask: LossMask, like: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"response_mask": mask.counts.to(like.dtype), "loss_mask": mask.divides.to(like.dtype)}


@contextmanager
def asking(batch: KVBatchMeta, keys: dict[str, Any]) -> Iterator[None]:
    """Send keys along with the worker calls made inside."""
    batch.extra_info.update(keys)
    try:
        yield
    finally:
        for key in keys:
            batch.extra_info.pop(key, None)


def call_with(
    batch: KVBatchMeta, fields: Sequence[str], call: Callable[..., KVBatchMeta], metrics: dict[str, Any]
) -> KVBatchMeta:
    """Run a worker call with the batch narrowed to `fields`, and hand the whole batch back."""
    narrowed = KVBatchMeta(
        partition_id=batch.partition_id,
        keys=batch.keys,
        tags=batch.tags,
        fields=list(fields),
        extra_info=batch.extra_info,
    )
    call(narrowed, metrics)
    return batch
