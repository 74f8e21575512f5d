"""Keys and values kept from one pass over a batch for a later one, sequence by sequence, within a byte budget."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from groupppo.errors import BadInput
from groupppo.update.layers import KeysValues
from groupppo.update.layout import Layout


class KeysValuesStore:
    """Found again by the ids of the sequence: two equal sequences have equal keys and values.

    Args:
        budget_bytes: largest size of all that is kept. device: where it is kept, "cpu" or the accelerator.
    """

    def __init__(self, budget_bytes: int, device: str):
        self.budget_bytes, self.device = budget_bytes, device
        self._kept: dict[bytes, list[KeysValues]] = {}

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for layers in self._kept.values() for pair in layers for part in pair)

    def clear(self) -> None:
        self._kept.clear()

    def put(self, layout: Layout, layers: list[KeysValues]) -> None:
        """Keep every layer's keys and values of every sequence of the batch.

        Raises:
            BadInput: what is kept would be larger than the budget.
        """
        needed = self.nbytes + sum(part.nbytes for pair in layers for part in pair)
        if needed > self.budget_bytes:
            hint = f"{needed} bytes of keys and values to keep; allow more, or write kv: recompute."
            raise BadInput("algorithm.group_params", "kv_bytes", self.budget_bytes, hint)
        lengths = layout.lengths.tolist()
        split = [list(zip(keys.split(lengths), values.split(lengths), strict=True)) for keys, values in layers]
        for number, name in enumerate(_names(layout)):
            self._kept[name] = [
                (layer[number][0].to(self.device, copy=True), layer[number][1].to(self.device, copy=True))
                for layer in split
            ]

    def get(self, layout: Layout) -> list[KeysValues]:
        """Every layer's keys and values for the batch's stream, (N, kv heads, head dim) each.

        Raises:
            BadInput: a sequence was not kept.
        """
        found = []
        for name in _names(layout):
            if name not in self._kept:
                hint = "no log-probability pass of this step saw a sequence of the update; write kv: recompute."
                raise BadInput("algorithm.group_params", "kv", "reuse", hint)
            found.append(self._kept[name])
        device = layout.input_ids.device
        return [
            (_joined((kept[0] for kept in pairs), device), _joined((kept[1] for kept in pairs), device))
            for pairs in zip(*found, strict=True)
        ]


def _joined(parts: Iterable[Tensor], device: torch.device) -> Tensor:
    return torch.cat([part.to(device, non_blocking=True) for part in parts])


def _names(layout: Layout) -> list[bytes]:
    ids = layout.input_ids.cpu().numpy()
    return [
        hashlib.blake2b(ids[start : start + length].tobytes(), digest_size=16).digest()
        for start, length in zip(layout.starts.tolist(), layout.lengths.tolist(), strict=True)
    ]
