"""``flow-agent inside``: what a container of an attempt runs."""

from __future__ import annotations

from pathlib import Path

import click

from flow_agent.brought import install
from flow_agent.inside import begin, begin_with_variable


@click.command()
@click.argument("orders", type=click.Path(path_type=Path), required=False)
@click.option("--last-words", type=click.Path(path_type=Path), metavar="FILE", help="Where the end is written, too.")
@click.option(
    "--install", "target", type=click.Path(path_type=Path), metavar="FOLDER", help="Copy this program there instead."
)
@click.option("--variable", metavar="NAME", help="The environment variable that holds the orders, in place of a file.")
def inside(orders: Path | None, last_words: Path | None, target: Path | None, variable: str | None) -> int:
    """Prepare and run one attempt here, as the file ORDERS says; agents start this in containers.

    \b
    Exit codes: that of the attempt; 125 it failed before the flow began.
    """
    if target is not None:
        install(target)
        return 0
    if variable is not None:
        return begin_with_variable(variable)
    if orders is None:
        raise click.UsageError("expected a file with orders, or --install FOLDER")
    return begin(orders, last_words)
