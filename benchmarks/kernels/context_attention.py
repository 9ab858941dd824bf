"""context_attention, causal and without padding, against FlashAttention-3 and padded SDPA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.anchors import attentions, flash_attention_3
from benchmarks.ceilings import Work
from benchmarks.graph_timing import Run
from benchmarks.kernels.trial import (
    Accuracy,
    Case,
    Trial,
    no_slower,
    poison,
    relative_error,
)
from kernels.context_attention import context_attention, reference
from shared.model.batch import bounds

DTYPE = torch.bfloat16
HEADS, DIM = 4, 64
LENGTHS = {
    "4 x 16384": (16384,) * 4,
    "16 to 16384": (16, 16384, 57, 3000, 200, 8192, 1000, 4096, 640, 128, 2048, 333),
}
ANCHORS = ("flash_attention_3_varlen", "sdpa_flash_padded", "sdpa_cudnn_padded")

_CHECKED = 64  # queries at the start, in the middle and at the end of a history


def cases() -> Iterator[Case]:
    """Long histories of one length, and a mix of lengths."""
    for title, lengths in LENGTHS.items():
        name = f"T {title}, H {HEADS}, D {DIM}"
        yield Case("context_attention", name, partial(trial, lengths, HEADS, DIM))


def trial(lengths: tuple[int, ...], heads: int, dim: int, device: torch.device) -> Trial:
    """Random q, k, v of users with `lengths` tokens; the padded anchors get the longest of all."""
    random = torch.Generator(device).manual_seed(2)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, device=device, generator=random).to(DTYPE)

    q, k, v = (normal(sum(lengths), heads, dim) for _ in range(3))
    cu_history = bounds(lengths, device)
    scale = dim**-0.5
    ours = partial(context_attention, q, k, v, cu_history, cu_history, scale=scale)
    longest = max(lengths)
    padded = [normal(len(lengths), heads, longest, dim).transpose(1, 2) for _ in range(3)]
    anchors: dict[str, Run] = {
        f"{name}_padded": partial(attend, *padded, scale=scale, causal=True)
        for name, attend in attentions().items()
        if name != "flash_attention_3"
    }
    if (module := flash_attention_3()) is not None:
        anchors["flash_attention_3_varlen"] = partial(
            module.flash_attn_varlen_func,
            q,
            k,
            v,
            cu_history,
            cu_history,
            longest,
            longest,
            softmax_scale=scale,
            causal=True,
        )
    pairs = sum(length * (length + 1) // 2 for length in lengths) * heads
    return Trial(
        ours=ours,
        anchors=anchors,
        accuracy=partial(_accuracy, ours, q, k, v, lengths, scale),
        work=Work(flops=4 * pairs * dim, bytes=4 * q.numel() * q.element_size(), exps=pairs),
        goals=(no_slower("the best of FA3 varlen and padded SDPA", ANCHORS, 1.2, 1.0),),
        plan="",
    )


def _accuracy(
    ours: Callable[[], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: tuple[int, ...],
    scale: float,
) -> Accuracy:
    """Some queries of the longest and of the last user; NaN anywhere spoils it."""
    poison(ours())
    out = ours()
    if not out.isfinite().all():
        return Accuracy(torch.nan, 0.0)
    found: list[Tensor] = []
    exact: list[Tensor] = []
    plain: list[Tensor] = []
    for user in sorted({lengths.index(max(lengths)), len(lengths) - 1}):
        first = sum(lengths[:user])
        for end in sorted({min(_CHECKED, lengths[user]), -(-lengths[user] // 2), lengths[user]}):
            history = slice(first, first + end)
            queries = slice(first + max(0, end - _CHECKED), first + end)
            found.append(out[queries])
            cu_query, cu_history = (
                bounds([it.stop - it.start], q.device) for it in (queries, history)
            )
            for dtype, results in ((torch.float64, exact), (q.dtype, plain)):
                q_part, k_part, v_part = (
                    tensor[part].to(dtype)
                    for tensor, part in ((q, queries), (k, history), (v, history))
                )
                results.append(
                    reference.attend(q_part, k_part, v_part, cu_query, cu_history, scale)
                )
    wanted = torch.cat(exact)
    return Accuracy(
        relative_error(torch.cat(found), wanted), relative_error(torch.cat(plain), wanted)
    )
