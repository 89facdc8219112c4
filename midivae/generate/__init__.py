"""Stage `generate`: jobs of samples.

stage         The stage: reads `data/model` and `data/rolls` and writes `data/samples`.
requests      Jobs with the facts of their models, checked before any work.
parents       The music that samples are made from.
parts         Parts of jobs, made in child processes and kept in the work directory.
modes         The modes of generation by name.
one_window    Modes sample, reconstruct, vary.
blend         Mode blend: music between parents.
edit          Mode edit: attributes changed along directions in latent space.
given         Modes infill, accompany, replace: some cells of a parent stay.
sequences     Modes continue and song: windows that follow each other.
ensemble      Mode ensemble: several instruments.
one_key       Music that stays in one key.
context       The context of a job, its samples and its random numbers.
rows          Samples as rows of the catalog.
"""
