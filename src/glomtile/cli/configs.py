"""Commands for config files."""

from __future__ import annotations

from typing import Annotated

import typer

from glomtile.cli.console import FLAGS, print_object, refuse_json
from glomtile.cli.options import ConfigFile, Overrides

app = typer.Typer(help="Check, convert or create a config file.", no_args_is_help=True)


@app.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print every finding; exit with 2 if one is an error."""
    from glomtile.config.load import check_config

    findings = check_config(config, overrides or ())
    wrong = any(finding.severity == "error" for finding in findings)
    if FLAGS.get().json:
        listed = [
            {
                "severity": one.severity, "file": one.file, "line": one.line, "section": one.section,
                "key": one.key, "message": one.message,
            }
            for one in findings
        ]  # fmt: skip
        print_object("config check", {"exit_code": 2 if wrong else 0, "findings": listed})
        raise typer.Exit(2 if wrong else 0)
    if not findings and not FLAGS.get().quiet:
        typer.echo(f"{config}: no findings", err=True)
    for finding in findings:
        typer.echo(f"{finding.severity}: {finding}")
    if wrong:
        raise typer.Exit(2)


@app.command()
def convert(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the same settings as TOML."""
    from glomtile.config.load import load_config
    from glomtile.config.toml import to_toml

    refuse_json("config convert")
    typer.echo(to_toml(load_config(config, overrides or ())), nl=False)


@app.command()
def init(
    pretrained: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Settings for fine-tuning this model: glomeruli-pas or a model folder."
        ),
    ] = None,
) -> None:
    """Print a commented TOML config."""
    from glomtile.config.toml import template

    refuse_json("config init")
    if pretrained is None:
        typer.echo(template(), nl=False)
        return
    from glomtile.models.pretrained import named

    typer.echo(template(named(pretrained)), nl=False)
