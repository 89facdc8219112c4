"""What lies on disk: tables, folders and the work directory.

schema   Every table's columns and version.
store    Reads and writes Parquet, JSON and whole folders; a file is written beside its target and renamed.
code     The hash of the code that does some work, by which finished work is found again.
"""
