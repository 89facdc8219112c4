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
    merge_parts: bool = False  # the union of the parts, drums left out
    min_fill: Fraction = 0.75  # a window at a piece's end is padded with silence if at least this much is music

    @property
    def n_planes(self) -> int:
        """How many planes a window has per part."""
        return 2 if self.planes == "onset+frame" else 1


class Fit(Section):
    """How a model is fitted to its windows."""

    epochs: Positive = 5
    max_steps: Positive | None = None  # a budget in optimiser steps; None: epochs alone decide
    batch_size: Positive = 64  # windows per optimiser step, whatever the number of processes
    accumulate: Positive = 1  # slices of a batch, taken in turn or shared by processes; each has noise of its own
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: Muon for the matrices of layers, AdamW for all else
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # with 0 AdamW is Adam
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # steps in which the learning rate rises to its value
    decay: bool = False  # whether it then falls to 0 over the budget, along a cosine
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # the most a gradient's norm may be; None: any
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the weights over steps: what they keep of it in each
    anneal_steps: Annotated[int, Field(ge=0)] = 0  # steps in which the weight of the KL term rises to beta
    transpose: Annotated[int, Field(ge=0, le=64)] = 0  # semitones up or down, at most, by which windows are moved
    patience: Positive | None = 4  # epochs without a better validation loss before stopping; None: never

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

    width: Positive = 128  # of the vector of a step
    channels: Positive = 16  # of a step's field, at each pitch
    layers: Positive = 2
    heads: Positive = 4
    cell: Positive = 16  # hidden units that decide a cell
    latent: Positive = 128
    draft: Annotated[int, Field(ge=0)] = 0  # hidden units of a draft of each beat; 0: none
    draft_steps: Annotated[int, Field(ge=0)] = 4000  # that fit the draft, and with it what a latent holds
    context: Annotated[int, Field(ge=0)] = 32  # steps before the window that the decoder sees
    drop_context: Share = 0.25  # share of the windows in training that see none of them
    dropout: Share = 0.1
    drop_window: Share = 0.3  # share of the windows of which it sees nothing: all has to come through the latent
    drop_steps: Share = 0.3  # share of the steps, and of the notes, that the decoder does not see in training:
    drop_notes: Share = 0.1  # it leans on its latent, and learns no piece by heart
    free_nats: Annotated[float, Field(ge=0)] = 0.1  # of KL that each latent dimension may hold at no cost
    beta: Annotated[float, Field(ge=0)] = 0.07  # weight of the KL term
    prior_steps: Positive = 400  # of the prior fitted to the latents afterwards

    epochs: Positive = 4
    batch_size: Positive = 32
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
    def _heads_divide(self) -> Transformer:
        for name in ("width", "channels"):
            if getattr(self, name) % self.heads:
                raise ValueError(f"{name} {getattr(self, name)} is no multiple of heads {self.heads}, which share it")
        return self


ModelName = Literal["transformer", "mlp", "autoencoder"]


class Train(Section):
    """Stage `train`: the model and how it is fitted."""

    model: ModelName = "transformer"
    compare: tuple[ModelName, ...] = ("mlp", "autoencoder")  # trained beside it, for the report's comparisons
    seed: Seed = 0
    warm_start: str | None = None  # folder of a model whose weights are the first ones; relative to the params file
    view: View = View()
    transformer: Transformer = Transformer()
    dense: Dense = Dense()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"  # of products in training; auto: bf16 where it is fast
    compile: Literal["auto"] | bool = "auto"  # by torch.compile, which needs a compiler; auto: on a GPU

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
