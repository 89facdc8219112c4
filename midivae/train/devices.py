"""Device, precision and processes of training: the only module that knows Lightning Fabric.

Several processes, started by `torchrun`, train one model together: each takes its share of every batch, gradients are
averaged between them (gloo on CPUs, nccl on GPUs), and process 0 alone writes and speaks.

Weights are kept in fp32 whatever the precision; with "bf16" the products of matrices in training are done in bfloat16,
where the hardware multiplies such numbers.

Offers: `Machine`, `connect`, `multiplies_bf16`, `launched`.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from midivae.errors import ParamsError, TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["32", "bf16"]


@dataclass(frozen=True)
class Machine:
    """What a model is trained on.

    Attributes:
        fabric: connects the processes, and casts what a model gets.
        precision: of the products of matrices in training.
        compiles: whether models are compiled.
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
        """The model as it is called in training; it shares its weights with `model`."""
        return self.fabric.setup_module(torch.compile(model) if self.compiles else model)  # type: ignore[arg-type]

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss to the weights' gradients."""
        self.fabric.backward(loss)

    def apart(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Gradients of all but the last part of a batch stay in their process for now."""
        return self.fabric.no_backward_sync(model, enabled=not is_last)  # type: ignore[arg-type]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes, in all of them."""
        return value if self.processes == 1 else torch.as_tensor(self.fabric.all_reduce(value, reduce_op="mean"))

    def total(self, value: Tensor) -> Tensor:
        """The sum over the processes, in all of them."""
        return value if self.processes == 1 else torch.as_tensor(self.fabric.all_reduce(value, reduce_op="sum"))

    def check_same(self, what: str, value: int) -> None:
        """Refuses to go on where this process found another value than process 0.

        Raises:
            TrainingError: it did.
        """
        first = self.fabric.broadcast(value)
        if first != value:
            raise TrainingError(
                f"process {self.rank} found {what} {value} where process 0 found {first}: they do not see the same "
                "work directory; let MIDIVAE_HOME name one that all machines share"
            )

    def leave(self) -> None:
        """Ends the connection between the processes: from here on, each is on its own."""
        if self.processes > 1:
            torch.distributed.destroy_process_group()


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def connect(
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "32", "bf16"] = "auto",
    compiles: Literal["auto"] | bool = "auto",
) -> Machine:
    """The machine that params name; "auto" takes a GPU, bfloat16 where it is fast, and the compiler on a GPU.

    Raises:
        ParamsError: a GPU is asked for, and there is none.
    """
    kind = _kind(device)
    chosen: Precision = ("bf16" if multiplies_bf16(kind) else "32") if precision == "auto" else precision
    # here, because it takes a second: stages that train nothing, and those who look at a model, do without
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of every process that connects
    together = launched()
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if together else 1
    fabric = Fabric(
        accelerator=kind,
        strategy="ddp" if together else "auto",
        devices=here,
        num_nodes=int(os.environ["WORLD_SIZE"]) // here if together else 1,
        precision="bf16-mixed" if chosen == "bf16" else "32-true",
        # named, because otherwise a shell in a cluster's queue is taken for one of many processes
        plugins=[TorchElasticEnvironment() if together else LightningEnvironment()],
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
    """Whether the hardware itself multiplies bfloat16; where it only imitates that, fp32 is faster."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
