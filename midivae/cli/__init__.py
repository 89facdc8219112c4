"""The command line: a command for each stage, and commands for people who use the results.

main       The group of all commands, and the console script.
base       What all commands share: errors as exit codes, help texts, output, common options.
stages     The commands of the stages, `run` and `verify`.
catalog    `catalog`, `query` and `export`.
render     `render` and `plot`.
explorer   `explore`.
champion   Comparing models and publishing versions: `inbox` to `order`.
"""
