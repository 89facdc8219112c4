"""Params of stage `train`: what a model sees, its layers, and how it is fitted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from midivae.config.base import Fraction, Positive, Section, Seed


class View(Section):
    """What a model sees of the rolls: windows of `steps` steps."""

    steps: Positive = 64
    hop: Positive | Literal["bar"] = "bar"  # steps from one window's start to the next, or: one at every bar line
    planes: Literal["frame", "onset+frame"] = "onset+frame"
    merge_parts: bool = False  # True: all parts except drums in one
    min_fill: Fraction = 0.75  # least share of music in the last window of a piece; the rest is silence

    @property
    def n_planes(self) -> int:
        """How many planes a window has per part."""
        return 2 if self.planes == "onset+frame" else 1


class Fit(Section):
    """How a model is fitted to its windows."""

    epochs: Positive = 5
    max_steps: Positive | None = None  # limit of optimiser steps; None: no limit besides epochs
    batch_size: Positive = 64  # windows per optimiser step, whatever the number of processes
    accumulate: Positive = 1  # slices of a batch, computed in turn or by several processes; each has its own noise
    # muon: Muon for weight matrices of layers, AdamW for all other weights
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # with 0 AdamW is Adam
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # steps until the learning rate reaches its value
    decay: bool = False  # True: it then falls to 0 along a cosine
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # maximum norm of the gradient; None: no maximum
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the moving average of the weights; 0: no average
    anneal_steps: Annotated[int, Field(ge=0)] = 0  # steps until the weight of the KL term reaches beta
    # maximum semitones up or down by which training windows are transposed
    transpose: Annotated[int, Field(ge=0, le=64)] = 0
    patience: Positive | None = 4  # epochs without a better validation loss, then training stops; None: never

    @model_validator(mode="after")
    def _slices_are_even(self) -> Fit:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of accumulate {self.accumulate}")
        return self


class Dense(Fit):
    """The article's layers, for the models `autoencoder` and `mlp`."""

    hidden: tuple[Positive, ...] = (256, 128, 64)
    latent: Positive = 16
    reconstruction: Literal["bce", "mse"] = "bce"  # summed over the window
    beta: Annotated[float, Field(ge=0)] = 1.0  # weight of the KL term (`mlp` only)


Share = Annotated[float, Field(ge=0, lt=1)]


class Transformer(Fit):
    """The layers of model `transformer`."""

    width: Positive = 128  # size of the vector of a step
    channels: Positive = 16  # size of the vector of a step at each pitch
    layers: Positive = 2
    heads: Positive = 4
    cell: Positive = 16  # hidden units of the network that predicts a cell
    coarse: Positive = 16  # dimensions of the coarse latent, which a window has one of
    fine: Positive = 32  # dimensions of the fine latent, which every beat has one of
    draft: Positive = 256  # hidden units of the draft, which encodes and decodes the fine latent
    draft_steps: Positive = 800  # optimiser steps that fit the draft, before the rest of the model
    context: Annotated[int, Field(ge=0)] = 32  # steps before the window that the decoder sees
    dropout: Share = 0.1
    # shares of training windows: without any latent, with both latents (the others have the coarse one), without
    # context, seen by the decoder only through the latents, with given cells, with bars before or after not known
    no_latent: Share = 0.1
    both_latents: Share = 0.4
    drop_context: Share = 0.25
    drop_window: Share = 0.2
    given: Share = 0.5
    drop_bars: Share = 0.3
    # shares of steps and of notes that the decoder does not see in training
    drop_steps: Share = 0.15
    drop_notes: Share = 0.1
    free_nats: Annotated[float, Field(ge=0)] = 0.1  # KL of each coarse dimension that is not charged
    beta: Annotated[float, Field(ge=0)] = 0.07  # weight of the KL of the coarse latent
    fine_beta: Annotated[float, Field(ge=0)] = 0.07  # and of the fine latent
    prior_steps: Positive = 1000  # optimiser steps of the prior, which is fitted to the coarse latents afterwards

    epochs: Positive = 6
    batch_size: Positive = 16
    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: Annotated[float, Field(gt=0)] = 5e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay: bool = True
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99
    anneal_steps: Annotated[int, Field(ge=0)] = 320
    transpose: Annotated[int, Field(ge=0, le=64)] = 6

    @model_validator(mode="after")
    def _shares_fit(self) -> Transformer:
        if self.no_latent + self.both_latents > 1:
            raise ValueError(
                f"no_latent {self.no_latent} and both_latents {self.both_latents} are more than 1 together"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Transformer:
        for name in ("width", "channels"):
            if getattr(self, name) % self.heads:
                raise ValueError(f"{name} {getattr(self, name)} is no multiple of heads {self.heads}, which share it")
        return self


ModelName = Literal["transformer", "mlp", "autoencoder"]


class Train(Section):
    """Stage `train`: the model and how it is fitted."""

    model: ModelName = "transformer"
    compare: tuple[ModelName, ...] = ("mlp", "autoencoder")  # also trained, for comparison in the report
    seed: Seed = 0
    warm_start: str | None = None  # folder of a model whose weights training starts from; relative to the params file
    view: View = View()
    transformer: Transformer = Transformer()
    dense: Dense = Dense()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # of matrix products in training; auto: bf16 if the hardware is fast with it
    precision: Literal["auto", "32", "bf16"] = "auto"
    compile: Literal["auto"] | bool = "auto"  # with torch.compile, which needs a compiler; auto: on a GPU

    @field_validator("precision", mode="before")
    @classmethod
    def _number_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) else value  # 32 is a number in YAML

    def network(self, name: str) -> Dense | Transformer:
        """The section of the model of this name."""
        return self.transformer if name == "transformer" else self.dense

    @model_validator(mode="after")
    def _no_model_twice(self) -> Train:
        if len({self.model, *self.compare}) != 1 + len(self.compare):
            raise ValueError(f"model {self.model!r} and compare {list(self.compare)} name a model twice")
        return self
