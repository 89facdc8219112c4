"""Stage `train`: the models.

stage        The stage: reads `data/rolls` and writes `data/model`.
trainer      Fits one model to windows of rolls.
optimizers   AdamW, and Muon for the weight matrices of layers.
checkpoint   Saves and loads all that a training run needs to go on.
devices      Device, precision and number of processes of a run.
fit_prior    Fits the prior over a model's latents.
"""
