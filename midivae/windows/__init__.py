"""From the corpus on disk to batches of windows on the training device.

loader   Reads shards into one bit matrix, cuts windows from it and gathers batches.
batch    A batch of windows, with what came before them.
"""
