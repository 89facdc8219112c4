"""The explorer: a local web page that makes music while one listens.

explore   What a person asks for, the music that is made of it, and what is kept.
routes    What the page can ask for.
server    A web server for one person on this machine.
"""
