"""Stage `report`: one offline page.

stage             The stage: reads all data folders and writes `data/report`.
overview          Sections "Overview" and "Corpus".
gallery           Section "Samples": the data for the page's script.
comparison        Sections "Against held-out music" and "Novelty".
modes             Section "What modes do".
reconstructions   Section "Reconstructions".
training          Section "Training".
lineage           Section "Lineage".
labels            How names and numbers are written, and the CSS classes of jobs.
"""
