"""Compiles a kernel for Hopper on any machine; as a program, so that no interpreter is in the way.

A test runs `compile_for_hopper`, which runs this file with one JSON object and reads another.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

_TYPES = {
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
}


class Recorder:
    """In a kernel's place: keeps what it would have been launched with."""

    def __getitem__(self, grid: tuple[int, int, int]) -> Recorder:
        self.grid = grid
        return self

    def __call__(self, *args: Any, **options: Any) -> None:
        self.args, self.options = args, options


def compile_for_hopper(kernel: str, args: tuple[Any, ...], **options: Any) -> dict[str, int]:
    """Compile `kernel`, named "module:function", for a launch with `args` and keyword `options`.

    Options are parameters of the kernel, constant or not, and the compiler's.

    Returns the bytes of `shared` memory, a thread's bytes of `stack` (spilled registers are there)
    and the number of `wgmma` instructions.

    Raises:
        AssertionError: it does not compile; the message has the compiler's last words.
    """
    problem = {
        "kernel": kernel,
        "args": [_describe(arg) for arg in args],
        "options": {name: _describe(option) for name, option in options.items()},
    }
    environment = dict(os.environ, TRITON_ALWAYS_COMPILE="1", PYTHONPATH=os.pathsep.join(sys.path))
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(problem)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.split("nanobind: leaked")[0][-3000:]
    numbers: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def _describe(arg: Any) -> str | int:
    """A type in the compiler's words, or a whole number, whose value decides the type."""
    if isinstance(arg, gl.constexpr):
        return _describe(arg.value)
    if isinstance(arg, float):
        return "fp32"
    if isinstance(arg, TensorDescriptor):
        assert isinstance(arg.layout, gl.NVMMASharedLayout)
        return f"tensordesc<{_TYPES[arg.base.dtype]}{list(arg.block_shape)},{arg.layout!r}>"
    if isinstance(arg, torch.Tensor):
        return f"*{_TYPES[arg.dtype]}"
    assert isinstance(arg, int)
    return arg


def _compile(kernel: str, args: list[str | int], options: dict[str, str | int]) -> dict[str, int]:
    from triton import knobs  # noqa: PLC0415  only the program compiles
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import compile  # noqa: PLC0415
    from triton.experimental.gluon._runtime import GluonASTSource  # noqa: PLC0415

    module, name = kernel.split(":")
    function = getattr(import_module(module), name)
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(function.params):
        value = options.pop(parameter.name) if parameter.name in options else args[place]
        special = isinstance(value, int) and not parameter.do_not_specialize
        if parameter.is_constexpr or (special and value == 1):  # as a launch does
            signature[parameter.name] = "constexpr"
            constants[(place,)] = value
            continue
        signature[parameter.name] = "i32" if isinstance(value, int) else value
        if str(value).startswith("*") or (special and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = GluonASTSource(function, signature, constants, attributes)
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    stack = re.search(r"STACK:(\d+)", usage)
    assert stack is not None, usage
    return {
        "shared": compiled.metadata.shared,
        "stack": int(stack[1]),
        "wgmma": compiled.asm["ptx"].count("wgmma.mma_async"),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_compile(**json.loads(sys.argv[1]))))
