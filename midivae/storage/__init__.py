"""What lies on disk: tables, folders and the work directory.

schema    Every table's columns and version.
files     Reads and writes single files, whole or not at all.
tables    Parquet tables with checksums and schema versions.
folders   Publishes whole folders, with a manifest by which they can be verified.
paths     Names of files and folders that more than one stage knows.
metrics   Names of the metrics of stage `evaluate`.
workdir   The work directory: finished parts and checkpoints, kept between runs.
code      The hash of the code that does some work, by which finished work is found again.
"""
