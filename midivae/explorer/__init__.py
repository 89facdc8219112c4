"""The explorer: a local web page on which a person makes samples and listens to them.

settings   The settings of the page: all that decides one sample.
session    Models, parents, and the samples that are made of them.
point      The latent at a point between parents.
uploads    MIDI files that a person uploads to use them as parents.
kept       The samples that a person keeps.
routes     The web application: files of the page, and the functions that it calls.
server     The web server.
"""
