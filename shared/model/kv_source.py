"""Where a layer's history keys and values come from: a shared pool plus user slices, or plain.

Each source serves (`write` numbers into entry planes, `history` to read them back) and trains
(`training_form`, differentiable, with the auxiliary losses).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.histories import CodedHistory, CollectiveHistory, DenseHistory, History, Pages
from kernels.pool_router import pool_router
from kernels.pool_router.product_key import product_key_router
from kernels.pools import AlignedPool
from shared.kv.layout import Planes
from shared.model.config import ModelConfig

Slots = tuple[Tensor, Tensor]
"""Page and slot of every token that is written, each [T] int64."""


@dataclass(frozen=True)
class RouterLosses:
    """Auxiliary losses of one layer (CollectiveKV eq. 10 and 11) and the router's choices."""

    peak: Tensor
    """[]: -mean log sigmoid(winning logit)."""
    balance: Tensor
    """[]: sum_p pbar_p log(P pbar_p), pbar the mean softmax(logits): 0 for rows used evenly."""
    rows: Tensor
    """[S, T] int64: the chosen rows, for usage statistics."""


class DenseKV(nn.Module):
    """Plain projections: DCAT without CollectiveKV."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_shape = (config.kv_heads, config.head_dim)
        width = config.kv_heads * config.head_dim
        self.key = nn.Linear(config.embed_dim, width, bias=False)
        self.value = nn.Linear(config.embed_dim, width, bias=False)

    def write(self, h: Tensor, planes: Planes, at: Slots) -> None:
        """Write K and V of h [T, E] to `planes`."""
        k, v, _ = self.training_form(h)
        planes["key"][at] = k.to(planes["key"].dtype)
        planes["value"][at] = v.to(planes["value"].dtype)

    def history(self, planes: Planes, pages: Pages) -> History:
        """What attention reads."""
        return DenseHistory(pages, planes["key"], planes["value"])

    def training_form(self, h: Tensor) -> tuple[Tensor, Tensor, None]:
        """K and V [T, G, D] of h [T, E]; there is nothing to regularise."""
        k = self.key(h).unflatten(-1, self.head_shape)
        v = self.value(h).unflatten(-1, self.head_shape)
        return k, v, None


class CollectiveKV(nn.Module):
    """Pool rows chosen by a router, plus U numbers of the user's own (CollectiveKV)."""

    value_scale: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        pool_shape = (config.pool_rows, config.kv_heads, config.head_dim - config.slice_dims)
        self.tied = config.router == "tied"
        self.product_keys = config.router_keys == "product"
        self.coded = config.slices == "coded"
        self.slice_dims = config.slice_dims
        keys = torch.randn(*config.router_shape, config.embed_dim)
        self.router_weight = nn.Parameter(keys * config.embed_dim**-0.5)
        self.router_bias = nn.Parameter(torch.zeros(config.router_shape))
        self.key_pool = nn.Parameter(torch.randn(pool_shape) * 0.5)
        self.value_pool = nn.Parameter(torch.randn(pool_shape) * 0.5)
        self._aligned_keys = AlignedPool(config.head_dim)
        self._aligned_values = AlignedPool(config.head_dim)
        if self.slice_dims:
            self.slices = nn.Linear(config.embed_dim, 2 * config.slice_dims, bias=False)
        if self.coded:
            self.codebook = nn.Parameter(torch.randn(config.code_vectors, config.slice_dims))
            self.register_buffer("value_scale", torch.tensor(1 / 32))

    def write(self, h: Tensor, planes: Planes, at: Slots) -> None:
        """Write rows and slices of h [T, E] to `planes`."""
        router = product_key_router if self.product_keys else pool_router
        rows, _ = router(h, self.router_weight, self.router_bias)
        names = ("row",) if self.tied else ("key_row", "value_row")
        for name, row in zip(names, rows, strict=True):
            # torch has no scatter for uint16; int16 has the same bits
            planes[name].view(torch.int16)[at] = row.to(torch.int16)
        if not self.slice_dims:
            return
        key_slice, value_slice = self._slices(h)
        if self.coded:
            planes["key_code"][at] = self._nearest_code(key_slice).to(torch.uint8)
            planes["value_slice"][at] = self._steps(value_slice).to(torch.int8)
        else:
            planes["key_slice"][at] = key_slice.to(planes["key_slice"].dtype)
            planes["value_slice"][at] = value_slice.to(planes["value_slice"].dtype)

    def history(self, planes: Planes, pages: Pages) -> History:
        """What attention reads."""
        key_pool = self._aligned_keys.of(self.key_pool)
        value_pool = self._aligned_values.of(self.value_pool)
        if self.coded:
            return CodedHistory(
                pages,
                planes["row"],
                planes["key_code"],
                planes["value_slice"],
                self.codebook,
                self.value_scale,
                key_pool,
                value_pool,
            )
        key_row = planes["row" if self.tied else "key_row"]
        value_row = planes["row" if self.tied else "value_row"]
        no_slice = key_pool.new_empty(*key_row.shape, 0)
        return CollectiveHistory(
            pages,
            key_row,
            value_row,
            planes.get("key_slice", no_slice),
            planes.get("value_slice", no_slice),
            key_pool,
            value_pool,
        )

    def training_form(self, h: Tensor) -> tuple[Tensor, Tensor, RouterLosses]:
        """K and V [T, G, D] of h [T, E] with gradients to router, pools and slices.

        A gathered row is multiplied by sigmoid(winning logit), so that the router learns
        (CollectiveKV eq. 8 and 9); codes and int8 steps pass gradients straight through.
        """
        winning, rows, mean_use = self._route(h)
        gate = winning.sigmoid()[..., None, None]
        key_slice, value_slice = self._slices(h)
        if self.coded:
            code = self.codebook[self._nearest_code(key_slice)]
            key_slice = code + key_slice - key_slice.detach()
            if self.training:
                largest = value_slice.detach().abs().amax() / 127
                self.value_scale.lerp_(largest, 0.01)
            steps = self._steps(value_slice) * self.value_scale
            value_slice = value_slice + (steps - value_slice).detach()
        k = _join(key_slice, self.key_pool[rows[0]] * gate[0])
        v = _join(value_slice, self.value_pool[rows[-1]] * gate[-1])
        balance = torch.special.xlogy(mean_use, mean_use.shape[-1] * mean_use).sum(-1).mean()
        return k, v, RouterLosses(-F.logsigmoid(winning).mean(), balance, rows)

    def _route(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Winning logits and rows, each [S, T], and the mean softmax(logits) [S, P], of h [T, E].

        Logits of product keys are sums: their softmax is the outer product of both lists' and its
        mean over the tokens a [p, T] x [T, p] matmul, so that [T, P] never exists.
        """
        logits = torch.einsum("te,...pe->...tp", h, self.router_weight)
        logits = logits + self.router_bias.unsqueeze(-2)  # [S, T, P] or [S, 2, T, p]
        winning, rows = logits.max(dim=-1)
        use = logits.softmax(dim=-1)
        if not self.product_keys:
            return winning, rows, use.mean(dim=1)
        first, second = use.unbind(1)
        pairs = torch.einsum("sta,stb->sab", first, second) / len(h)
        rows = rows[:, 0] * pairs.shape[-1] + rows[:, 1]
        return winning.sum(dim=1), rows, pairs.flatten(1)

    def _slices(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value slice, each [T, U], of h [T, E]."""
        if not self.slice_dims:
            return h[:, :0], h[:, :0]
        key_slice, value_slice = self.slices(h).chunk(2, dim=-1)
        return key_slice, value_slice

    def _nearest_code(self, key_slice: Tensor) -> Tensor:
        """Nearest code vector [T] int64 of each key slice [T, U]."""
        offsets = key_slice.unsqueeze(1) - self.codebook
        return offsets.square().sum(-1).argmin(dim=-1)

    def _steps(self, value_slice: Tensor) -> Tensor:
        """Value slice [T, U] in whole steps of `value_scale`, within int8."""
        return (value_slice / self.value_scale).round().clamp(-127, 127)


def _join(user_slice: Tensor, pooled: Tensor) -> Tensor:
    per_head = user_slice.unsqueeze(1).expand(-1, pooled.shape[1], -1)
    return torch.cat((per_head, pooled), dim=-1)
