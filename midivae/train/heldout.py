"""How well a trained model describes windows of pieces that it never saw.

Shapes:
    W  measured windows    Z  latent    C  its coarse dimensions

Offers: `measure_held_out`, `measure_prior`, `latent_statistics`, `ACTIVE`.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from midivae.config.streams import Stream
from midivae.config.train import Train
from midivae.measures import distances
from midivae.measures.likeness import Match, matched
from midivae.models import WindowModel, coding, elbo
from midivae.models.chance import Chance
from midivae.storage.files import rounded
from midivae.train import fit_prior
from midivae.train.devices import torch_rng
from midivae.windows.corpus import Corpus
from midivae.windows.device import BitMatrix

ACTIVE = 0.01  # a latent dimension is active if the variance of its mean over the data exceeds this (Burda et al. 2016)
MOST_WINDOWS = 4096  # measured windows: the time does not grow with the corpus
_MEASURED_AT_ONCE = 64


@torch.inference_mode()
def measure_held_out(model: WindowModel, windows: BitMatrix, seed: int) -> dict[str, float | int]:
    """Measures all windows, or `MOST_WINDOWS` of them, evenly spaced.

    Returns:
        windows: how many were measured; if 0, there is nothing else.
        reconstruction_nats, kl_nats, elbo_nats: nats a window with one draw of the coarse latent, whatever
            `reconstruction` the model was trained with; kl and elbo only if the model samples its latent.
        reconstruction_nats_per_step ...: the same per step of music.
        both_...: the same with both latents, of a model that has two.
        frame_f1, onset_f1, step_accuracy: of reconstructions from the mean of both latents, at a threshold of one half.
        active_units ...: statistics of the coarse latent (`latent_statistics`).
    """
    if not len(windows):
        return {"windows": 0}
    noise = torch_rng(windows.device, Stream.TEST.seeds(seed))
    index = torch.from_numpy(distances.evenly(len(windows), MOST_WINDOWS)).to(windows.device)
    columns, counts = [], np.zeros(6, np.int64)
    with tqdm(total=len(index), desc=f"{model.name}: test", unit="window", disable=None, file=sys.stderr) as bar:
        for numbers in torch.split(index, _MEASURED_AT_ONCE):
            batch = windows.batch(numbers)
            mu, logvar = model.encode(batch.x)
            z = elbo.reparameterise(mu, logvar, noise)
            nats = model.nats(batch, z, torch.zeros(len(z), device=z.device))
            both_nats = model.nats(batch, z) if model.coarse < model.latent else nats
            columns.append((nats, both_nats, mu, logvar, batch.n_inside))
            reconstructed = coding.complete(model.cells(mu, Chance(), batch=batch.alone()).cpu().numpy())
            counts += matched(reconstructed, coding.complete((batch.x > 0).cpu().numpy()))
            bar.update(len(numbers))
    nats, both_nats, mu, logvar, inside = (torch.cat(column) for column in zip(*columns, strict=True))
    kl, steps, coarse = elbo.kl_per_dimension(mu, logvar), int(inside.sum()), model.coarse
    both = _likelihood(both_nats, kl.sum(1), steps) if coarse < model.latent else {}
    match = Match.of(counts)
    return {
        "windows": len(index),
        **_likelihood(nats, kl[:, :coarse].sum(1) if model.samples_latent else None, steps),
        **{f"both_{name}": value for name, value in both.items()},
        "frame_f1": rounded(match.frame_f1),
        "onset_f1": rounded(match.onset_f1),
        "step_accuracy": rounded(match.exact_steps),
        **latent_statistics(mu[:, :coarse], logvar[:, :coarse]),
    }


def _likelihood(nats: Float[Tensor, " W"], kl: Float[Tensor, " W"] | None, steps: int) -> dict[str, float | int]:
    """Means per window, and per step; `steps`: of all windows together."""
    means = {"reconstruction_nats": nats.mean().item()}
    if kl is not None:
        means |= {"kl_nats": kl.mean().item(), "elbo_nats": -(nats + kl).mean().item()}
    per_step = {f"{name}_per_step": mean * len(nats) / steps for name, mean in means.items()}
    return {name: rounded(value) for name, value in (means | per_step).items()}


def latent_statistics(mu: Float[Tensor, "W Z"], logvar: Float[Tensor, "W Z"]) -> dict[str, float | int]:
    """Statistics over the windows; if the standard normal fits, means are near 0 and total standard deviations near 1.

    Returns:
        active_units: dimensions whose mean varies by more than `ACTIVE`.
        latent: all dimensions.
        mu_mean_max: largest absolute mean of mu.
        mu_std_mean: mean standard deviation of mu.
        sigma_mean: mean standard deviation of the posterior.
        aggregate_std_min, aggregate_std_max: standard deviation of all posteriors together, over dimensions.
    """
    variance = mu.var(0, correction=0)  # [Z]
    total = (variance + logvar.exp().mean(0)).sqrt()
    return {
        "active_units": int((variance > ACTIVE).sum()),
        "latent": mu.shape[1],
        "mu_mean_max": rounded(mu.mean(0).abs().max().item()),
        "mu_std_mean": rounded(variance.sqrt().mean().item()),
        "sigma_mean": rounded((0.5 * logvar).exp().mean().item()),
        "aggregate_std_min": rounded(total.min().item()),
        "aggregate_std_max": rounded(total.max().item()),
    }


def measure_prior(model: WindowModel, corpus: Corpus, settings: Train) -> dict[str, float | int]:
    """How well each prior predicts the latents of held-out windows, nats a window; the model has a fitted prior."""
    assert model.prior is not None  # noqa: S101 - the caller checks it
    encoded = fit_prior.encode_chains(model, corpus, settings.view, settings.seed)
    nats = fit_prior.measure(model.prior, encoded, settings.seed)
    return {f"{name}_nats": rounded(value) for name, value in nats.items()}
