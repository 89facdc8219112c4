"""Parameters: every one, its default and its rule.

base       The base class of sections, the types of values, and how a YAML file is read and checked.
compute    How stages use the machine.
fetch      Params of stage `fetch`.
ingest     Params of stage `ingest`.
train      Params of stage `train`.
jobs       Params of stage `generate`, one class per mode.
evaluate   Params of stage `evaluate`.
report     Params of stage `report`.
streams    Every use of random numbers, with the key of its generator.
params     The params of a run: all sections, read from `params.yaml`.
champion   When a model takes the place of another, and when to warn: sections of `nightly.yaml`.
"""
