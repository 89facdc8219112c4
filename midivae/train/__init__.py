"""Stage `train`: the models.

stage        The stage: reads `data/rolls` and writes `data/model`.
fit          Fits one model: from an earlier one or not, its draft first; the key of a run.
trainer      The loop of training: epochs, batches, checkpoints.
optimizers   AdamW, and Muon for the weight matrices of layers.
checkpoint   Saves and loads all that a training run needs to go on.
devices      Device, precision and number of processes of a run.
fit_prior    Fits the prior over a model's latents.
"""
