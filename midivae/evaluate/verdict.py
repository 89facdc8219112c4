"""The verdict on the article: does the KL term make sampling from a standard normal work?

Offers: `Verdict` and `verdict_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from midivae.evaluate import held_out_distances
from midivae.evaluate.held_out_distances import Floor, SetFeatures

CONVINCING = 0.95  # the share of divisions in which one model must be nearer, before the verdict says so
_SAYS = {True: "The article is right", False: "The article is wrong", None: "The article is not confirmed"}


@dataclass(frozen=True)
class Verdict:
    """The verdict.

    Attributes:
        nearer: share of the divisions in which the VAE's samples are nearer to held-out music than the autoencoder's;
            None: not both models have a job, or neither has samples that can be measured.
        right: None: neither model is nearer often enough.
        sentence: both, for people.
    """

    nearer: float | None
    right: bool | None
    sentence: str


def verdict_of(jobs: Sequence[SetFeatures], floor: Floor) -> Verdict:
    """Compares samples of the article's two models, drawn alike, at equal numbers and against the same windows.

    If a model has too few samples that can be measured, all divisions count for the other.
    """
    pair = _article_jobs(jobs)
    if pair is None:
        return Verdict(None, None, "No job samples both models of the article, mlp and autoencoder, alike.")
    vae, plain = pair
    sizes = [held_out_distances.drawable(rows, floor) for rows in pair]
    n = min(sizes)
    if max(sizes) < 2:
        return Verdict(None, None, "Neither model of the article makes samples that can be measured: train longer.")
    if n < 2:
        nearer = float(sizes[0] > sizes[1])
        measured = "one of the two makes hardly a sample that can be measured"
    else:
        with_kl, without = (held_out_distances.frechet_of(rows, floor, n) for rows in pair)
        nearer = float((with_kl.distance < without.distance).mean())
        measured = (
            f"Frechet distance to held-out music {with_kl.distance.mean():.3g} with it, "
            f"{without.distance.mean():.3g} without, {with_kl.floor.mean():.3g} from real to real music"
        )
    right = True if nearer >= CONVINCING else False if nearer <= 1 - CONVINCING else None
    sentence = (
        f"{_SAYS[right]}: sampled from a standard normal, the model with a KL term is nearer to held-out music in "
        f"{nearer:.0%} of {len(floor.halves)} comparisons ({measured}; silent samples {vae.silent_share:.1%} with it, "
        f"{plain.silent_share:.1%} without)."
    )
    return Verdict(nearer, right, sentence)


def _article_jobs(jobs: Sequence[SetFeatures]) -> tuple[SetFeatures, SetFeatures] | None:
    """A job of each of the article's models, decoded at one temperature."""
    plain = {str(job.temperature): job for job in reversed(jobs) if job.model == "autoencoder"}
    pairs = ((job, plain[str(job.temperature)]) for job in jobs if job.model == "mlp" and str(job.temperature) in plain)
    return next(pairs, None)
