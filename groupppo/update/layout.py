"""Where tokens and rows are: a batch of sequences, padded or packed, and the positions whose outputs are wanted."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """B sequences of prompt and response, one after the other in a flat stream of N tokens.

    Attributes:
        input_ids: (N,) int64, the sequences without padding.
        lengths: (B,) int64, tokens of each sequence; they sum to N.
        packed: whether the network sees one packed row (1, N), or rows padded on the right (B, S).
        prompts: (B,) int64, tokens of each sequence's prompt where equal prompts are to be computed once, else None.
    """

    input_ids: Tensor
    lengths: Tensor
    packed: bool
    prompts: Tensor | None = None

    @property
    def starts(self) -> Tensor:
        """(B,) offset of each sequence in the stream."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    @property
    def sequence(self) -> Tensor:
        """(N,) the sequence that each token of the stream belongs to."""
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.lengths.device), self.lengths)

    @property
    def position(self) -> Tensor:
        """(N,) place of each token in its sequence."""
        return torch.arange(len(self.input_ids), device=self.lengths.device) - self.starts[self.sequence]

    def cut(self, rows: Tensor) -> tuple["Layout", Tensor]:
        """Drop the tokens after each sequence's last row, which no row can see; also the sequences without a row.

        Args:
            rows: (K,) places in the stream, increasing.

        Returns:
            the shorter layout, and the places of the same rows in it.
        """
        sequence, position = self.sequence, self.position
        needed = torch.zeros_like(self.lengths)
        needed.scatter_reduce_(0, sequence[rows], position[rows] + 1, reduce="amax")
        keep = position < needed[sequence]
        moved = keep.long().cumsum(0) - 1
        prompts = None if self.prompts is None else torch.minimum(self.prompts, needed)[needed > 0]
        return Layout(self.input_ids[keep], needed[needed > 0], self.packed, prompts), moved[rows]

    def sharing(self) -> tuple[Tensor, Tensor]:
        """Which tokens have to be computed where sequences with equal prompts share them.

        A token of a shared prompt sees the same tokens in every one of its sequences, so that it has one hidden state.

        Returns:
            (M,) increasing places of the tokens computed, a prompt's in the first of its sequences; and (N,) for each
            token of the stream, the number among the M of the one that stands for it.
        """
        assert self.prompts is not None
        sequence, position = self.sequence, self.position
        in_prompt = position < self.prompts[sequence]
        padded = self.input_ids.new_full((len(self.lengths), int(self.prompts.max())), -1)
        padded[sequence[in_prompt], position[in_prompt]] = self.input_ids[in_prompt]
        _, prompt = padded.unique(dim=0, return_inverse=True)
        number = torch.arange(len(prompt), device=prompt.device)
        first = torch.full_like(prompt, len(prompt)).scatter_reduce_(0, prompt, number, reduce="amin")[prompt]
        place = torch.arange(len(self.input_ids), device=prompt.device)
        computed = torch.where(in_prompt, self.starts[first][sequence] + position, place)
        kept = computed == place
        return kept.nonzero().flatten(), (kept.long().cumsum(0) - 1)[computed]

    def network_index(self) -> Tensor:
        """(N,) place of each token on the network's flattened token axis."""
        if self.packed:
            return torch.arange(len(self.input_ids), device=self.input_ids.device)
        return self.sequence * self.longest + self.position

    def network_input(self) -> tuple[Tensor, Tensor]:
        """Ids and position ids as the network takes them, (1, N) or (B, S); padding is id 0 at position 0."""
        if self.packed:
            return self.input_ids[None], self.position[None]
        shape, index = (len(self.lengths), self.longest), self.network_index()
        ids = torch.zeros(shape, dtype=torch.long, device=self.input_ids.device)
        positions = torch.zeros_like(ids)
        ids.view(-1)[index] = self.input_ids
        positions.view(-1)[index] = self.position
        return ids, positions


@dataclass(frozen=True)
class Rows:
    """Query rows of an attention whose keys are whole sequences; everything padded to (B, Q) rows and (B, S) keys, of
    B sequences that have a row, and S tokens up to the last of them.

    The query heads that share keys and values are further rows of one head. So neither is repeated, and a kernel that
    takes a mask but no grouped heads, as torch's memory-efficient one for GPUs is in some versions, can serve them.

    Attributes:
        table: (B, Q) number of each row in the list of K rows; padding repeats row 0.
        real: (B, Q) bool, false at padding.
        keys: (B, S) place of each key in the stream; padding repeats place 0.
        group: G, query heads for one head of keys and values.
        mask: (B, 1, GQ, S), which keys a row sees: those of its sequence up to itself; bool, or added to scores.
    """

    table: Tensor
    real: Tensor
    keys: Tensor
    group: int
    mask: Tensor

    @classmethod
    def of(cls, layout: Layout, rows: Tensor, group: int) -> "Rows":
        """Index K rows, (K,) increasing places in the stream, for `group` query heads to one of keys."""
        position = layout.position[rows]
        present, sequence, count = layout.sequence[rows].unique_consecutive(return_inverse=True, return_counts=True)
        slot = torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[sequence]
        shape = (len(present), int(count.max()))
        table = torch.zeros(shape, dtype=torch.long, device=rows.device)
        real = torch.zeros(shape, dtype=torch.bool, device=rows.device)
        at = torch.zeros_like(table)
        table[sequence, slot] = torch.arange(len(rows), device=rows.device)
        real[sequence, slot] = True
        at[sequence, slot] = position
        place = torch.arange(int(position.max()) + 1, device=rows.device)
        inside = place[None] < layout.lengths[present, None]
        keys = torch.where(inside, layout.starts[present, None] + place[None], 0)
        # A padding row sees the first key, so that its softmax is defined; nobody reads it.
        mask = (place[None, None] <= at[:, :, None]).repeat(1, group, 1)
        return cls(table, real, keys, group, mask[:, None])

    def among(self, numbers: Tensor, where: Tensor) -> "Rows":
        """The same rows under other numbers, (K,), with keys at other places, (N,) by place in the stream."""
        return replace(self, table=numbers[self.table], keys=where[self.keys])

    def additive(self, dtype: torch.dtype) -> "Rows":
        """With a mask of zeros and minus infinities, which attention would otherwise make, and keep, in every layer."""
        return replace(self, mask=torch.zeros_like(self.mask, dtype=dtype).masked_fill_(~self.mask, float("-inf")))
