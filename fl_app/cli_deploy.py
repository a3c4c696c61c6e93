"""The commands of a deployment: ``rsdgc deploy``, ``rsdgc server``, and more of ``rsdgc site``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl_app.cli_options import Budget, Method, Model, Overrides, Rounds, Seed, given, words
from rsdgc.errors import RunError, SettingError

ServerFile = Annotated[Path, typer.Option("--config", help="The server's server.toml.")]
SiteFile = Annotated[Path, typer.Option("--config", help="The site's site.toml.")]
RunNumber = Annotated[str | None, typer.Argument(help="Flower's number of the run.")]
Folder = Annotated[Path, typer.Option("--out", help="Folder of the federation.")]

SERVER_FILE = Path("server.toml")
SITE_FILE = Path("site.toml")


def add_deploy_commands(app: typer.Typer, site: typer.Typer) -> None:
    """Add the commands to the application, and those of a site to ``site``."""
    deploy = typer.Typer(help="Set a federation of real sites up.", no_args_is_help=True)
    deploy.command()(init)
    deploy.command()(add_site)
    deploy.command()(renew)
    deploy.command()(check)
    app.add_typer(deploy, name="deploy")
    server = typer.Typer(help="The server of a federation of real sites.", no_args_is_help=True)
    server.command()(start)
    server.command()(register)
    server.command()(run)
    server.command()(watch)
    server.command()(stop)
    server.command()(resume)
    app.add_typer(server, name="server")
    site.command("start")(start_site)
    site.command("status")(site_status)


def init(
    server: Annotated[
        str, typer.Option(help="DNS names or addresses of the server, with commas; first the main.")
    ],
    out: Folder,
    sites: Annotated[str, typer.Option(help="Names of the sites, with commas.")] = "",
    port: Annotated[int, typer.Option(help="Port that sites reach.")] = 443,
) -> None:
    """Make a folder for each party: certificates, keys, configuration, units, proxy.

    Called again, it makes what is missing and leaves what is there.
    """
    from fl_app.deploy.provision import init as make

    federation = make(out, words(server), port, words(sites))
    typer.echo(
        f"{out / 'authority'}: keep it off every network; it is needed for rsdgc deploy renew\n"
        f"{out / 'server'}: to the server, as /etc/rsdgc"
    )
    for name in federation.sites:
        typer.echo(f"{out / 'sites' / name}: to site {name}, as /etc/rsdgc")


def add_site(
    names: Annotated[list[str], typer.Argument(help="Names of the new sites.")],
    out: Folder,
    public_key: Annotated[
        Path | None, typer.Option(help="Of a key that the site has made itself.")
    ] = None,
) -> None:
    """Make the folders of further sites; then rsdgc server register, with the new keys."""
    from fl_app.deploy.provision import add_site as make
    from fl_app.deploy.provision import open_federation

    if public_key is not None and len(names) != 1:
        raise SettingError("--public-key is one site's: name that site alone")
    federation = open_federation(out)
    for name in names:
        folder = make(federation, name, public_key)
        typer.echo(
            f"{folder}: to site {name}, as /etc/rsdgc\n"
            f"{out / 'server' / 'sites' / name}.pub: to the server, into /etc/rsdgc/sites; then "
            "rsdgc server register"
        )


def renew(out: Folder) -> None:
    """Sign a new certificate for the server, before the old one expires."""
    from fl_app.deploy.provision import open_federation
    from fl_app.deploy.provision import renew as sign

    certificate = sign(open_federation(out))
    typer.echo(
        f"{certificate} and server.key: to the server, into /etc/rsdgc; then restart it and nginx"
    )


def check(
    config: Annotated[Path, typer.Option(help="The party's server.toml or site.toml.")],
) -> None:
    """Look at everything that a party needs before it runs; exit with 1 if something is wrong."""
    from fl_app.deploy.checks import failed, table
    from fl_app.deploy.party_config import ServerConfig, read_party
    from fl_app.deploy.server_checks import check_server
    from fl_app.deploy.site_checks import check_site

    party = read_party(config)
    looked = check_server(party) if isinstance(party, ServerConfig) else check_site(party)
    findings = list(looked)
    typer.echo(table(findings))
    if count := failed(findings):
        raise RunError(f"{count} of {len(findings)} checks failed")


def start(config: ServerFile = SERVER_FILE) -> None:
    """Run the server's SuperLink, until it is told to end."""
    from fl_app.deploy.party_config import read_server
    from fl_app.deploy.server_link import start as go

    go(read_server(config))


def register(config: ServerFile = SERVER_FILE) -> None:
    """Let the sites in whose public keys are in the configuration's folder, and no others."""
    from fl_app.deploy.party_config import read_server
    from fl_app.deploy.server_link import connect
    from fl_app.deploy.site_registration import register as enter

    party = read_server(config)
    for line in enter(party, connect(party)):
        typer.echo(line)


def run(
    overrides: Overrides = None,
    *,
    out: Annotated[str, typer.Option(help="Name of the run's folder in runs-dir.")],
    config: ServerFile = SERVER_FILE,
    method: Method = None,
    budget: Budget = None,
    model: Model = None,
    rounds: Rounds = None,
    seed: Seed = None,
    min_sites: Annotated[
        int | None, typer.Option(help="Sites to wait for; default: all that are registered.")
    ] = None,
) -> None:
    """Train over the sites; follow the run to its end, and exit with 1 if that is a bad one."""
    from fl_app.deploy.party_config import read_server
    from fl_app.deploy.run_commands import run as go

    options = {
        "method": method,
        "budget": budget,
        "model": model,
        "rounds": rounds,
        "seed": seed,
        "min-sites": min_sites,
    }
    go(read_server(config), out, overrides or [], given(options))


def watch(run_id: RunNumber = None, config: ServerFile = SERVER_FILE) -> None:
    """Say which sites are there and follow a run, by default the newest, to its end."""
    from fl_app.deploy.party_config import read_server
    from fl_app.deploy.run_commands import watch as follow

    follow(read_server(config), run_id)


def stop(run_id: RunNumber = None, config: ServerFile = SERVER_FILE) -> None:
    """Stop a run, by default the one that goes on; rsdgc server resume takes it up again."""
    from fl_app.deploy.party_config import read_server
    from fl_app.deploy.run_commands import stop as end

    ended = end(read_server(config), run_id)
    typer.echo(f"run {ended.run_id}: {ended.status}")


def resume(
    out: Annotated[str, typer.Argument(help="Name of the run's folder in runs-dir.")],
    config: ServerFile = SERVER_FILE,
    min_sites: Annotated[
        int | None, typer.Option(help="Sites to wait for; default: as at the start.", min=1)
    ] = None,
) -> None:
    """Go on with a run that did not finish, from its last checkpoint, with its settings."""
    from fl_app.deploy.party_config import read_server
    from fl_app.deploy.run_commands import resume as go_on

    go_on(read_server(config), out, min_sites)


def start_site(config: SiteFile = SITE_FILE) -> None:
    """Take part: run this site's SuperNode, until it is told to end."""
    from fl_app.deploy.party_config import read_site
    from fl_app.deploy.supernode import start as go

    go(read_site(config))


def site_status(config: SiteFile = SITE_FILE) -> None:
    """Say whether this site's SuperNode runs, and what it keeps; exit with 1 if it does not run."""
    from fl_app.deploy.party_config import read_site
    from fl_app.deploy.supernode import is_running, status

    party = read_site(config)
    for line in status(party):
        typer.echo(line)
    if not is_running(party):
        raise RunError(f"site {party.name} is not running: rsdgc site start")
