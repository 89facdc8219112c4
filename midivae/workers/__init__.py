"""Work in parallel, in processes that may crash.

parallel   Runs a function over parts of the work, in guarded child processes or on a Dask cluster.
child      The program of such a child process.
"""
