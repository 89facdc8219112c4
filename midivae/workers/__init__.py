"""Work in parallel, in processes that may crash.

parallel   Runs a function for many specs, and submits a failed one again if the caller changes it.
pools      Where calls run: in children of this process, or of the workers of a Dask cluster.
guard      One child process, as its parent sees it: its start, its time limit and its end.
child      The program of a child process.
outcome    What became of a call: a value or a failure.
"""
