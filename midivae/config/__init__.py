"""Parameters: every one, its default and its rule.

params   `params.yaml` as frozen models, one per stage.
"""
