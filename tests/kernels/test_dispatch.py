"""Triton takes what it can compute and nothing else."""

from __future__ import annotations

import pytest
import torch

from kernels.dispatch import runs_on_triton


def test_the_cpu_runs_the_reference() -> None:
    assert not runs_on_triton(torch.zeros(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_runs_triton_unless_it_cannot() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        assert runs_on_triton(torch.zeros(1, dtype=dtype, device="cuda"))
    assert not runs_on_triton(torch.zeros(1, dtype=torch.float64, device="cuda"))
    parameter = torch.zeros(1, device="cuda", requires_grad=True)
    assert not runs_on_triton(torch.zeros(1, device="cuda"), parameter)
    with torch.inference_mode():
        assert runs_on_triton(parameter)
    assert not runs_on_triton(torch.zeros(1, device="cuda"), torch.zeros(1))
