"""Device, precision and processes of training: the only module that imports Lightning Fabric.

Several processes, started by `torchrun`, train one model together. Each computes its share of every batch, gradients
are averaged between the processes (gloo on CPUs, nccl on GPUs), and only process 0 writes files and logs.

Weights are fp32 with every precision. With "bf16" the matrix products in training use bfloat16.

Offers: `Machine`, `connect`, `multiplies_bf16`, `torch_rng`, `keep_freed_memory`.
"""

from __future__ import annotations

import ctypes
import logging
import os
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from midivae.errors import ParamsError, TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["32", "bf16"]
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class Machine:
    """What a model is trained on.

    Attributes:
        fabric: connects the processes, and casts the inputs of a model.
        precision: of matrix products in training.
        compiles: whether models are compiled with torch.compile.
    """

    fabric: Fabric
    precision: Precision
    compiles: bool

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.fabric.device

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.fabric.global_rank

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self.fabric.world_size

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model wrapped for training; it shares its weights with `model`."""
        return self.fabric.setup_module(torch.compile(model) if self.compiles else model)  # type: ignore[arg-type]

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss to the weights' gradients."""
        self.fabric.backward(loss)

    def delayed_sync(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients after the last slice of a batch only."""
        return self.fabric.no_backward_sync(model, enabled=not is_last)  # type: ignore[arg-type]

    def reduce(self, value: Tensor, operation: Literal["mean", "sum"]) -> Tensor:
        """The mean or the sum over the processes, in all of them."""
        return value if self.processes == 1 else torch.as_tensor(self.fabric.all_reduce(value, reduce_op=operation))

    def check_same(self, what: str, value: int) -> None:
        """Checks that this process has the same value as process 0.

        Raises:
            TrainingError: it has another.
        """
        first = self.fabric.broadcast(value)
        if first != value:
            raise TrainingError(
                f"process {self.rank} found {what} {value}, but process 0 found {first}: they do not use the same "
                "work directory; set MIDIVAE_HOME to a folder that all machines share"
            )

    def disconnect(self) -> None:
        """Ends the connection between the processes: they no longer wait for each other."""
        if self.processes > 1:
            torch.distributed.destroy_process_group()


def connect(
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "32", "bf16"] = "auto",
    compiles: Literal["auto"] | bool = "auto",
) -> Machine:
    """The machine that params name; "auto": a GPU if there is one, bfloat16 if it is fast, the compiler on a GPU.

    Raises:
        ParamsError: params ask for a GPU, and there is none.
    """
    kind = _kind(device)
    chosen: Precision = ("bf16" if multiplies_bf16(kind) else "32") if precision == "auto" else precision
    # imported here because it takes a second, and only training needs it
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it logs every process that connects
    launched = "TORCHELASTIC_RUN_ID" in os.environ  # torchrun started this process
    local = int(os.environ["LOCAL_WORLD_SIZE"]) if launched else 1
    fabric = Fabric(
        accelerator=kind,
        strategy="ddp" if launched else "auto",
        devices=local,
        num_nodes=int(os.environ["WORLD_SIZE"]) // local if launched else 1,
        precision="bf16-mixed" if chosen == "bf16" else "32-true",
        # named explicitly: Fabric would take a shell that a cluster's scheduler started for one of many processes
        plugins=[TorchElasticEnvironment() if launched else LightningEnvironment()],
    )
    fabric.launch()
    if fabric.global_rank:
        logging.getLogger("midivae").setLevel(logging.WARNING)
    return Machine(fabric, chosen, kind == "cuda" if compiles == "auto" else compiles)


def _kind(device: str) -> Literal["cpu", "cuda"]:
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ParamsError("train.device is 'cuda', but torch sees no GPU; set it to 'auto' or 'cpu'")
    return "cuda" if available and device != "cpu" else "cpu"


def multiplies_bf16(kind: Literal["cpu", "cuda"]) -> bool:
    """Whether the hardware multiplies bfloat16 itself; emulated bfloat16 is slower than fp32."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def torch_rng(device: torch.device, seeds: np.random.SeedSequence) -> torch.Generator:
    """A generator on the device, with the key of a random stream."""
    return torch.Generator(device).manual_seed(int(seeds.generate_state(1, np.uint64)[0]))


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the system.

    A step on a CPU allocates and frees some 100 MB of gradients and logits. Returning and requesting it each time took
    a quarter of the step (119 ms of processor time instead of 88, 12.7 M parameters, batch 64). Without glibc nothing
    happens.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the maximum that glibc accepts
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)
