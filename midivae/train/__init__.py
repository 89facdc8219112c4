"""Stage `train`: the models.

stage        The stage: reads `data/rolls` and writes `data/model`.
fit          Fits one model: reads the corpus, fits the draft, then the whole model; the key of a run.
trainer      The training loop: epochs, batches, checkpoints.
schedule     The learning rate and the weight of the KL term at each step.
optimizers   AdamW, and Muon for the weight matrices of layers.
curves       The curves of a run as CSV.
checkpoint   Saves and loads everything that a run needs to continue.
devices      Device, precision and number of processes of a run.
fit_prior    Fits the prior over a model's latents.
heldout      Measures a model on pieces that it never saw.
card         The model card.
"""
