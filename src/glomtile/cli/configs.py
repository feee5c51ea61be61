"""The commands about a config file itself: check it, convert it, begin one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glomtile.cli.flags import FLAGS
from glomtile.cli.outcome import print_object, refuse_json

app = typer.Typer(help="Check a config file, convert it to TOML, or begin one.", no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="An INI or TOML file of settings.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; may be given again."),
]


@app.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print every finding at once; 2 when one of them is an error."""
    from glomtile.config.load import check_config

    findings = check_config(config, overrides or ())
    wrong = any(finding.severity == "error" for finding in findings)
    if FLAGS.get().json:
        told = [
            {
                "severity": one.severity, "file": one.file, "line": one.line, "section": one.section,
                "key": one.key, "message": one.message,
            }
            for one in findings
        ]  # fmt: skip
        print_object("config check", {"exit_code": 2 if wrong else 0, "findings": told})
        raise typer.Exit(2 if wrong else 0)
    if not findings and not FLAGS.get().quiet:
        typer.echo(f"{config}: no findings", err=True)
    for finding in findings:
        typer.echo(f"{finding.severity}: {finding}")
    if wrong:
        raise typer.Exit(2)


@app.command()
def convert(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the same settings as TOML; paths stay relative to the config's folder."""
    from glomtile.config.load import load_config
    from glomtile.config.toml import to_toml

    refuse_json("config convert")
    typer.echo(to_toml(load_config(config, overrides or ())), nl=False)


@app.command()
def init(
    pretrained: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Settings that fit a model to begin with: glomeruli-pas, or DIR."),
    ] = None,
) -> None:
    """Print a commented TOML to start from."""
    from glomtile.config.toml import template

    refuse_json("config init")
    if pretrained is None:
        typer.echo(template(), nl=False)
        return
    from glomtile.models.pretrained import named

    typer.echo(template(named(pretrained)), nl=False)
