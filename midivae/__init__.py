"""midivae: from a corpus of MIDI files to a variational autoencoder to a catalog of generated samples.

The stages, in order; each is a package, a subcommand of `midivae`, a section of `params.yaml` and a DVC stage:

    fetch      a corpus of MIDI files on disk
    ingest     MIDI bytes -> piano rolls in Parquet shards, and one table of pieces
    train      the variational autoencoder
    generate   jobs of samples: a catalog in Parquet with the MIDI bytes inside, and .mid files
    evaluate   measures of the samples, and their distance to held-out music
    report     one offline page
"""

__version__ = "0.1.0"
