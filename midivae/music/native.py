"""Loops over arrays, as machine code: compiled once by numba, kept as a file, loaded in milliseconds.

A kernel is a function of plain loops over arrays and whole numbers; its annotations say their types. numba compiles it.
But to start numba takes half a second of processor time in every process, also where all code lies in its own cache:
as much as a worker of an increment has to do. So the object code of a module's kernels is kept in the package's
`__pycache__`, as Python's own compiled code is, or where that cannot be written in the work directory, under a name
made of all that it depends on: source, versions, processor. `llvmlite`, numba's lower half, loads it in 30 ms.

A kernel indexes arrays that its caller made, computes, and calls helpers. It does not allocate or raise, and nobody
looks whether an index lies within its array: its caller has checked what it gives. Results do not depend on the
processor: whole numbers, and single operations of double precision.

Offers: the decorators `kernel` and `helper`, and `prepare`, which compiles what is not compiled yet.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import llvmlite.binding as llvm
import numpy as np

from midivae.storage.files import write_file
from midivae.storage.workdir import work_dir

log = logging.getLogger(__name__)

Function = Callable[..., Any]
_DIGEST = 32  # bytes of sha256 before the object code: what is damaged must not run
_LIBRARY = ("memset", "memcpy", "memmove")  # what a compiler makes of some loops
_KERNELS: dict[str, list[Kernel]] = {}  # by module
_HELPERS: dict[str, list[Function]] = {}
_ENGINES: dict[str, Any] = {}  # of llvmlite, by module


# --- kernels ----------------------------------------------------------------------------------------------------------
class Kernel:
    """A function that runs as machine code; `function` is the same in Python."""

    def __init__(self, function: Function) -> None:
        self.function = inspect.unwrap(function)
        self.__doc__ = function.__doc__
        _KERNELS.setdefault(function.__module__, []).append(self)

    def __call__(self, *args: Any) -> Any:
        """Runs it.

        Raises:
            TypeError: an argument is no whole number, or no array of the annotated type that lies in one piece.
        """
        return self._code(*[_pointer(arg, dtype) for arg, dtype in zip(args, self.dtypes, strict=True)])

    @cached_property
    def dtypes(self) -> tuple[np.dtype[Any] | None, ...]:
        """Of each argument the type of its items; None: a whole number."""
        hints = get_type_hints(self.function)
        return tuple(
            np.dtype(hint.dtypes[0]) if hasattr(hint, "dtypes") else None
            for name, hint in hints.items()
            if name != "return"
        )

    @cached_property
    def returns(self) -> bool:
        """Whether it gives a whole number back."""
        return get_type_hints(self.function)["return"] is int

    @cached_property
    def _code(self) -> Function:
        prepare(self.function.__module__)
        arguments = [ctypes.c_int64 if dtype is None else ctypes.c_void_p for dtype in self.dtypes]
        kind = ctypes.CFUNCTYPE(ctypes.c_int64 if self.returns else None, *arguments)
        return kind(_ENGINES[self.function.__module__].get_function_address(self.function.__name__))


def kernel(function: Function) -> Kernel:
    """Makes a kernel of a function whose arguments are annotated `Int64[np.ndarray, "..."]` and the like, or `int`."""
    return Kernel(function)


def helper(function: Function) -> Function:
    """Lets the kernels of its module call a function."""
    function = inspect.unwrap(function)
    _HELPERS.setdefault(function.__module__, []).append(function)
    return function


def _pointer(arg: Any, dtype: np.dtype[Any] | None) -> int:
    if dtype is None:
        return int(arg)
    if arg.dtype != dtype or not arg.flags.c_contiguous:
        raise TypeError(
            f"an array of {arg.dtype} with strides {arg.strides}, where one of {dtype} in one piece belongs"
        )
    address: int = arg.__array_interface__["data"][0]  # at half the time of arg.ctypes.data
    return address


# --- object code ------------------------------------------------------------------------------------------------------
def prepare(module: str, alive: Callable[[], object] = lambda: None) -> None:
    """Compiles the kernels of a module, if that was not done before: some seconds, once.

    Args:
        module: its name; it must be imported.
        alive: is called after each kernel, so that whoever waits knows that this process is not stuck.
    """
    if module not in _ENGINES:
        _ENGINES[module] = _loaded(module, alive)


def _loaded(module: str, alive: Callable[[], object]) -> Any:
    """What holds the machine code of a module's kernels; it lives as long as the process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name in _LIBRARY:
        llvm.add_symbol(name, ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value)
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(_object_code(module, target, alive)))
    engine.finalize_object()
    return engine


def _object_code(module: str, target: Any, alive: Callable[[], object]) -> bytes:
    """From where it is kept, else compiled and kept."""
    source = sys.modules[module].__file__
    assert source is not None  # noqa: S101 - a module with source code
    name = f"{module}.{_key(Path(source), target)}.o"
    for folder in _folders():
        with suppress(OSError):
            kept = (folder / name).read_bytes()
            if hashlib.sha256(kept[_DIGEST:]).digest() == kept[:_DIGEST]:
                return kept[_DIGEST:]
    code = _compiled(module, target, alive)
    for folder in _folders():
        with suppress(OSError):
            write_file(folder / name, lambda file: file.write(hashlib.sha256(code).digest() + code), durable=False)
            break
    return code


def _folders() -> tuple[Path, ...]:
    """Where object code may be kept, the first choice first."""
    return Path(__file__).parent / "__pycache__", work_dir().absolute() / "native"


def _key(source: Path, target: Any) -> str:
    """The hash of all that object code depends on."""
    made_of = source.read_bytes() + Path(__file__).read_bytes()
    about = [version("numba"), version("llvmlite"), sys.version, target.triple]
    about += [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    return hashlib.sha256(made_of + "\n".join(about).encode()).hexdigest()[:16]


def _compiled(module: str, target: Any, alive: Callable[[], object]) -> bytes:
    """The object code of a module's kernels, each under its name."""
    import numba  # here, as it takes longer to import than most processes have to do
    from numba.extending import register_jitable

    begun = time.monotonic()
    for function in _HELPERS.get(module, []):
        register_jitable(function)
    linked = llvm.parse_assembly("")
    for one in _KERNELS[module]:
        pointer: Any = numba.types.CPointer
        types = [numba.int64 if dtype is None else pointer(numba.from_dtype(dtype)) for dtype in one.dtypes]
        signature = (numba.int64 if one.returns else numba.void)(*types)
        code = numba.cfunc(signature, error_model="numpy")(one.function)
        part = llvm.parse_assembly(code.inspect_llvm())
        part.get_function(code.native_name).name = one.function.__name__
        linked.link_in(part)
        alive()
    linked.link_in(llvm.parse_assembly(_stand_ins(linked)))
    made: bytes = target.emit_object(linked)
    log.info("compiled %d kernels of %s in %.1f s, once", len(_KERNELS[module]), module, time.monotonic() - begun)
    return made


def _stand_ins(linked: Any) -> str:
    """What a module of code refers to and does not have, as code: numba's ways to raise, which end the process here."""
    functions = [one.name for one in linked.functions if one.is_declaration and not one.name.startswith("llvm.")]
    values = [one.name for one in linked.global_variables if one.is_declaration]
    return "\n".join(
        [
            "declare void @llvm.trap()",
            *(f"define void @{name}() {{ call void @llvm.trap()\n unreachable }}" for name in functions),
            *(f"@{name} = global ptr null" for name in values),
        ]
    )
