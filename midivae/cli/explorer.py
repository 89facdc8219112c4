"""The command `explore`."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

import click

from midivae.cli import base


@base.command("midivae explore", "midivae explore --data published/current --keep my-samples")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8733,
    show_default=True,
    help="Port of the page; 0: any free port.",
)
@click.option("--keep", type=base.PATH, metavar="DIR", help="Where samples are kept; without it, `kept` in --data.")
@click.option("--no-browser", is_flag=True, help="Print the page's address, and open nothing.")
@base.stage_options
def explore(port: int, keep: Path | None, no_browser: bool, params_file: Path, data: Path) -> None:
    """Explore the latent space on a local web page.

    On the page you move between pieces, change them, listen, and keep samples, which are job `kept` of the catalog.
    Prints the page's address, and serves it to this machine only, until it is interrupted.
    """
    import webbrowser

    from midivae.config import params
    from midivae.explorer.server import Server
    from midivae.explorer.session import Session

    with closing(Session(params.load(params_file), data, keep)) as session, Server(session, port) as server:
        base.print_line(server.url)
        click.echo("press Ctrl-C to stop", err=True)
        if not no_browser:
            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):
            server.serve()


COMMANDS = (explore,)
