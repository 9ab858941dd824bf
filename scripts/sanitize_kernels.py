"""Run every kernel under NVIDIA's compute-sanitizer: nothing may be read or written outside.

    python3 scripts/sanitize_kernels.py                            # every op once, on any CUDA GPU
    python3 scripts/sanitize_kernels.py --tool memcheck racecheck  # the same under the sanitizer

The second form compiles everything first, in parallel, then starts compute-sanitizer on the first
form, a tool at a time, and writes what each found to benchmarks/results/<gpu>/sanitizer.json. It
exits 1 unless all of them found nothing.

Shapes are small and odd. Every tensor is an allocation of its own, as long as its numbers, so that
one number too far is seen. Slots of no token, and table entries of no page, hold NaN and indices
far outside; so do some slots of tokens: kernels clamp those to the pool and the codebook.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_record import gpu_record, results_file, write_record  # noqa: E402
from kernels.context_attention import context_attention  # noqa: E402
from kernels.crossing_attention import crossing_attention, plans  # noqa: E402
from kernels.histories import (  # noqa: E402
    CodedHistory,
    CollectiveHistory,
    DenseHistory,
    History,
    Pages,
    RaggedHistory,
)
from kernels.kv_expand import kv_expand  # noqa: E402
from kernels.pool_router import pool_router  # noqa: E402
from kernels.pool_router.product_key import product_key_router  # noqa: E402
from kernels.pools import aligned_pool  # noqa: E402

POOL, CODES, GROUPS = 29, 5, 2
OUT_OF_POOL, OUT_OF_CODES, OUT_OF_PAGES = 65535, 255, 2**31 - 1
FORMS = ("ragged", "dense", "separate", "tied", "coded")
DTYPES = (torch.bfloat16, torch.float32)
CANDIDATES = (3, 0, 1, 130, 17)
SHORT, LONG = (0, 1, 63, 16, 257), (0, 16, 63, 9, 1100)
"""Tokens of each user; who has most comes last, where the block table ends."""
ENCODED = (
    ("encode", SHORT, SHORT),
    ("append", (0, 1, 16, 5, 33), LONG),
    ("long append", (0, 16, 60, 9, 200), LONG),
    ("appends of many", (0, 1, 5) * 30, (3, 70, 5) * 30),
)
"""New tokens and all tokens of each user; few new ones have their keys split."""
BETWEEN = 1 << 16
"""Bytes behind every allocation that no tensor has: where an overrun of codes or rows ends."""
COMPILERS = 8
LIMIT_S = 240
"""Seconds that a tool may take."""
CLEAN = {"exit": 0, "errors": 0, "hazards": 0}
"""What a tool finds in right kernels."""
Case = tuple[str, Callable[[], Any]]


def bounds(counts: tuple[int, ...]) -> Tensor:
    """[B + 1] int32 on the device."""
    return torch.tensor([0, *counts]).cumsum(0).to(torch.int32).cuda()


def random(*shape: int) -> Tensor:
    """Normally distributed, on the CPU: fewer foreign kernels for the sanitizer to look at."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def random_history(
    form: str, lengths: tuple[int, ...], dtype: torch.dtype, page: int, dim: int, width: int
) -> History:
    """A history on the device, its pages in random order, none to spare."""
    if form == "ragged":
        key, value = (random(sum(lengths), GROUPS, dim).to(dtype).cuda() for _ in range(2))
        return RaggedHistory(key, value, bounds(lengths))
    draw = torch.Generator().manual_seed(7)
    counts = [-(-length // page) for length in lengths]
    numbers = torch.randperm(sum(counts), generator=draw).split(counts)
    table = torch.full((len(lengths), max(counts)), OUT_OF_PAGES, dtype=torch.int32)
    used = torch.zeros(sum(counts), page, dtype=torch.bool)
    for user, (mine, length) in enumerate(zip(numbers, lengths, strict=True)):
        table[user, : len(mine)] = mine
        for block, number in enumerate(mine):
            used[number, : length - block * page] = True
    pages = Pages.of(table.cuda(), lengths, page)

    def numbers_plane(*inner: int) -> Tensor:
        plane = random(*used.shape, *inner)
        plane[~used] = torch.nan
        return plane.to(dtype).cuda()

    def index_plane(limit: int, outside: int, kind: torch.dtype) -> Tensor:
        plane = torch.randint(limit, used.shape, generator=draw)
        plane[~used | (torch.rand(used.shape, generator=draw) < 0.1)] = outside
        return plane.to(kind).cuda()

    if form == "dense":
        return DenseHistory(pages, numbers_plane(GROUPS, dim), numbers_plane(GROUPS, dim))
    pools = [
        aligned_pool(random(POOL, GROUPS, dim - width).to(dtype), dim).cuda() for _ in range(2)
    ]
    row = index_plane(POOL, OUT_OF_POOL, torch.uint16)
    if form == "coded":
        code = index_plane(CODES, OUT_OF_CODES, torch.uint8)
        steps = torch.randint(-128, 128, (*used.shape, width), generator=draw).to(torch.int8).cuda()
        codebook, step = random(CODES, width).to(dtype).cuda(), torch.tensor(0.05).to(dtype).cuda()
        return CodedHistory(pages, row, code, steps, codebook, step, *pools)
    value_row = row if form == "tied" else index_plane(POOL, OUT_OF_POOL, torch.uint16)
    slices = numbers_plane(width), numbers_plane(width)
    return CollectiveHistory(pages, row, value_row, *slices, *pools)


def route(tokens: int, width: int, rows: int, dtype: torch.dtype) -> list[Tensor]:
    """Two sides' routers and their product keys; logits."""
    hidden, weight = random(tokens, width), random(2, rows, width)
    arguments = [x.to(dtype).cuda() for x in (hidden, weight, random(2, rows))]
    product = [x.to(dtype).cuda() for x in (hidden, weight.unsqueeze(0), random(1, 2, rows))]
    return [pool_router(*arguments)[1], product_key_router(*product)[1]]


def expand(form: str, dtype: torch.dtype, page: int, width: int) -> tuple[Tensor, Tensor]:
    """Keys and values."""
    return kv_expand(random_history(form, SHORT, dtype, page, 64, width), dtype)


def encode(
    new: tuple[int, ...], total: tuple[int, ...], heads: int, dim: int, dtype: torch.dtype
) -> list[Tensor]:
    """Causal attention of each user's `new` tokens of `total`."""
    q, k, v = (
        random(sum(count), h, dim).to(dtype).cuda()
        for count, h in ((new, heads), (total, GROUPS), (total, GROUPS))
    )
    return [context_attention(q, k, v, bounds(new), bounds(total), scale=dim**-0.5)]


class _HasRunError(Exception):
    """A plan of this kind has run."""


def cross(
    form: str, lengths: tuple[int, ...], dtype: torch.dtype, page: int, dim: int, width: int
) -> list[Tensor]:
    """Crossing attention in the chosen plan and in each that is left when others are ruled out."""
    history = random_history(form, lengths, dtype, page, dim, width)
    q, k, v = (
        random(sum(CANDIDATES), h, dim).to(dtype).cuda() for h in (2 * GROUPS, GROUPS, GROUPS)
    )
    cu, outputs, kinds = bounds(CANDIDATES), [], set()

    def choose(ruled_out: tuple[str, ...], problem: plans.Problem) -> plans.Plan:
        # Counting rows never pays at these sizes; it runs all the same.
        problem = replace(problem, histogram=form == "coded")
        plan = plans.choose(replace(problem, **dict.fromkeys(ruled_out, False)))
        if plan.kind in kinds:
            raise _HasRunError
        kinds.add(plan.kind)
        return plan

    switches = [field.name for field in fields(plans.Problem) if field.type == "bool"]
    for ruled_out in (some for n in range(len(switches) + 1) for some in combinations(switches, n)):
        forced = patch("kernels.crossing_attention.launch.choose", partial(choose, ruled_out))
        with forced, suppress(_HasRunError):
            outputs.append(crossing_attention(q, k, v, history, cu, scale=dim**-0.5))
    return outputs


def cases() -> Iterator[Case]:
    """Every op in every form that has a kernel of its own."""
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        for tokens, width, rows in ((65, 24, 131), (300, 64, 200), (63, 300, 70)):
            label = f"router {tokens} x {width} x {rows} {name}"
            yield label, partial(route, tokens, width, rows, dtype)
        for form in ("dense", "separate", "coded"):
            yield f"kv_expand {form} {name}", partial(expand, form, dtype, 128, 1)
        yield f"kv_expand over pages {name}", partial(expand, "separate", dtype, 16, 3)
        heads_of = [(GROUPS, 64)]
        if dtype == torch.bfloat16:  # on Hopper heads of 16 take the plain kernel
            heads_of += [(GROUPS, 16), (2 * GROUPS, 128)]
        for heads, dim in heads_of:
            for what, new, total in ENCODED:
                label = f"context {what}, {heads} heads of {dim} {name}"
                yield label, partial(encode, new, total, heads, dim, dtype)
        for form in FORMS:
            yield f"crossing {form} {name}", partial(cross, form, SHORT, dtype, 128, 64, 1)
        for form in ("separate", "coded"):
            label = f"crossing {form} over pages, split {name}"
            yield label, partial(cross, form, LONG, dtype, 16, 64, 2)
        yield f"crossing odd slice {name}", partial(cross, "separate", SHORT, dtype, 128, 64, 3)
        yield f"crossing wide {name}", partial(cross, "separate", SHORT, dtype, 128, 128, 16)


def run(part: int, parts: int) -> None:
    """Run every `parts`-th case from `part` on; an output that is no number is an error."""
    for label, op in list(cases())[part::parts]:
        outputs = op()
        torch.cuda.synchronize()
        if not all(out.cpu().isfinite().all() for out in outputs):
            raise SystemExit(f"{label}: garbage in the output")
        print(label, *[list(out.shape) for out in outputs], flush=True)  # noqa: T201


def compile_all() -> None:
    """Fill Triton's cache, each process a part of the cases."""
    commands = [
        [sys.executable, __file__, "--part", str(part), str(COMPILERS)] for part in range(COMPILERS)
    ]
    with ThreadPoolExecutor(COMPILERS) as pool:
        done = list(pool.map(partial(subprocess.run, capture_output=True, text=True), commands))
    for process in done:
        if process.returncode:
            raise SystemExit(f"a plain run failed\n{process.stderr[-3000:]}")


def sanitize(tool: str, program: str) -> dict[str, Any]:
    """What `tool` finds when every op runs: errors, hazards, and the kernels they are in."""
    padding = ["--padding", str(BETWEEN)] if tool == "memcheck" else []
    command = [program, "--tool", tool, *padding, sys.executable, __file__]
    exact = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    process = subprocess.Popen(
        command,
        env=os.environ | exact,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the sanitizer, and the program it started
        output, errors = process.communicate()
    found = {"exit": process.returncode, **reported(output)}
    if found | CLEAN != found:
        lines = [line for line in output.splitlines() if line.startswith("=====")]
        ran = output.splitlines()[-1:]  # what was reached, where time ran out
        print("\n".join([*lines[:40], *ran]), errors[-2000:], sep="\n")  # noqa: T201
    return {"cases": sum(1 for _ in cases()), **found}


def reported(output: str) -> dict[str, Any]:
    """The counts of a sanitizer's summary; None where it printed none."""
    errors = re.search(r"SUMMARY:.*?(\d+) errors?", output)
    hazards = re.search(r"RACECHECK SUMMARY: (\d+) hazards?", output)
    kernels = re.findall(r"^=+ (?:.* access at|    at) ([A-Za-z_]\w*)", output, re.MULTILINE)
    return {
        "errors": int(errors[1]) if errors else None,
        "hazards": int(hazards[1]) if hazards else 0,
        "kernels": dict(Counter(kernels)),
    }


def main() -> None:
    """Run the ops, or the sanitizer on them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", nargs="+", default=[], help="tools of compute-sanitizer to run")
    parser.add_argument("--commit", help="what is measured, where this is no git checkout")
    parser.add_argument("--out", type=Path, help="the record's file")
    parser.add_argument("--part", nargs=2, type=int, default=(0, 1), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: the kernels run on one only")
    if not options.tool:
        run(*options.part)
        return
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(program).exists():
        raise SystemExit("compute-sanitizer is not installed: it comes with the CUDA toolkit")
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    compile_all()
    record = gpu_record("sanitizer", options.commit)
    record["compute_sanitizer"] = re.findall(r"Version (\S+)", version.stdout)
    record["tools"] = {tool: sanitize(tool, program) for tool in options.tool}
    write_record(record, options.out or ROOT / results_file("sanitizer"))
    for tool, found in record["tools"].items():
        print(tool, *(f"{name} {value}" for name, value in found.items()))  # noqa: T201
    if any(found | CLEAN != found for found in record["tools"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
