"""From the corpus on disk to batches of windows on the training device.

corpus    Reads shards into one bit matrix.
windows   Finds windows and cuts them from the matrix.
device    Gathers batches of windows on the training device.
place     Where a step lies in its bar and its piece.
batch     A batch of windows, with the steps before them.
"""
