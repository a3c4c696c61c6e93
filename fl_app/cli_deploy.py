"""The commands of a deployment: ``rsdgc deploy``, ``rsdgc server``, and more of ``rsdgc site``."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fl_app.cli_options import (
    AsJson,
    Budget,
    Method,
    Model,
    Overrides,
    Rounds,
    Seed,
    examples,
    given,
    new_group,
    print_json,
    words,
)
from fl_app.deploy import SERVER_DAYS, SERVER_FILE, SITE_FILE
from fl_app.interruption import explain_interruption

# Without --config, a command reads the file in the current folder, which usually is /etc/rsdgc.
ServerFile = Annotated[Path, typer.Option("--config", help="The server's server.toml.")]
SiteFile = Annotated[Path, typer.Option("--config", help="The site's site.toml.")]
RunChoice = Annotated[
    str | None, typer.Argument(help="Name of the run's folder, or Flower's number of the run.")
]
Folder = Annotated[Path, typer.Option("--out", help="Folder of the federation.")]
Days = Annotated[int, typer.Option(help="Days for which the server's certificate is valid.")]
PublicKey = Annotated[
    Path | None, typer.Option(help="Public key of a pair that the site made itself.")
]

_LEFT = "a run that was started goes on at the server; rsdgc server watch follows it"
_EXAMPLES = {
    "init": ("rsdgc deploy init --server fl.example.org --sites oslo,porto --out federation",),
    "add_site": ("rsdgc deploy add-site quito --out federation",),
    "renew": (
        "rsdgc deploy renew --out federation",
        "rsdgc deploy renew --out federation --site oslo",
    ),
    "check": ("rsdgc deploy check --config /etc/rsdgc/site.toml",),
    "start": ("rsdgc server start", "rsdgc server start --config /etc/rsdgc/server.toml"),
    "register": ("rsdgc server register",),
    "revoke": ("rsdgc server revoke porto",),
    "run": ("rsdgc server run --out spring --rounds 60 --budget 100x",),
    "watch": ("rsdgc server watch", "rsdgc server watch --json"),
    "stop": ("rsdgc server stop",),
    "resume": ("rsdgc server resume spring",),
    "start_site": ("rsdgc site start", "rsdgc site start --config /etc/rsdgc/site.toml"),
    "start_app": ("rsdgc site start-app --config /etc/rsdgc/site.toml",),
    "site_status": ("rsdgc site status",),
}


def add_deploy_commands(app: typer.Typer, site: typer.Typer) -> None:
    """Add the commands to the application, and those of a site to ``site``."""
    deploy = new_group("Set up a federation of real sites.")
    server = new_group("Run the server of a federation.")
    app.add_typer(deploy, name="deploy")
    app.add_typer(server, name="server")
    for deploy_command in (init, add_site, renew, check):
        deploy.command(epilog=examples(*_EXAMPLES[deploy_command.__name__]))(deploy_command)
    for server_command in (start, register, revoke, run, watch, stop, resume):
        server.command(epilog=examples(*_EXAMPLES[server_command.__name__]))(server_command)
    for name, site_command in (
        ("start", start_site),
        ("start-app", start_app),
        ("status", site_status),
    ):
        site.command(name, epilog=examples(*_EXAMPLES[site_command.__name__]))(site_command)


def init(
    server: Annotated[
        str,
        typer.Option(help="DNS names or addresses of the server, comma-separated, main one first."),
    ],
    out: Folder,
    sites: Annotated[str, typer.Option(help="Names of the sites, comma-separated.")] = "",
    port: Annotated[int, typer.Option(help="Port at which sites reach the server.")] = 443,
    days: Days = SERVER_DAYS,
) -> None:
    """Make the folders of a federation.

    The server and each site get one, with certificates, keys and configuration. A second call adds
    what is missing and overwrites nothing.
    """
    from fl_app.deploy.provision import init_federation

    federation = init_federation(out, words(server), port, words(sites), days)
    typer.echo(
        f"{out / 'authority'}: keep it offline; rsdgc deploy renew needs it\n"
        f"{out / 'server'}: copy it to the server, as /etc/rsdgc"
    )
    for name in federation.sites:
        typer.echo(f"{out / 'sites' / name}: copy it to site {name}, as /etc/rsdgc")


def add_site(
    names: Annotated[list[str], typer.Argument(help="Names of the new sites.")],
    out: Folder,
    public_key: PublicKey = None,
) -> None:
    """Make the folders of new sites.

    Register their keys at the server with rsdgc server register.
    """
    from fl_app.deploy import provision
    from rsdgc.errors import SettingError

    if public_key is not None and len(names) != 1:
        raise SettingError(f"--public-key belongs to one site, but {len(names)} are named")
    federation = provision.open_federation(out)
    provision.check_distinct_sites(names)
    for name in names:
        folder = provision.add_site(federation, name, public_key)
        typer.echo(
            f"{folder}: copy it to site {name}, as /etc/rsdgc\n"
            f"{out / 'server' / 'sites' / name}.pub: copy it to the server, into /etc/rsdgc/sites, "
            "and run rsdgc server register there"
        )


def renew(
    out: Folder,
    site: Annotated[str | None, typer.Option(help="Replace the key of this site instead.")] = None,
    public_key: PublicKey = None,
    *,
    authority: Annotated[
        bool, typer.Option("--authority", help="Replace the authority and what it signed.")
    ] = False,
    days: Days = SERVER_DAYS,
) -> None:
    """Sign a new certificate for the server, or replace a site's key or the authority.

    rsdgc deploy check warns 30 days before the server's certificate expires. If the server's key
    was stolen, replace the authority: no site trusts the old certificate any more once it has the
    new ca.crt.
    """
    from fl_app.deploy import provision
    from rsdgc.errors import SettingError

    if authority and site is not None:
        raise SettingError("--authority and --site exclude each other: renew one after the other")
    if public_key is not None and site is None:
        raise SettingError("--public-key belongs to a site: name it with --site")
    federation = provision.open_federation(out)
    if site is not None:
        folder = provision.renew_site_key(federation, site, public_key)
        what = "node.pub" if public_key else "node.key and node.pub"
        typer.echo(
            f"{folder}: copy {what} to site {site}, into /etc/rsdgc\n"
            f"{out / 'server' / 'sites' / site}.pub: copy it to the server, into /etc/rsdgc/sites, "
            "run rsdgc server register there, and restart rsdgc-site at the site"
        )
        return
    if authority:
        for folder in provision.renew_authority(federation, days):
            typer.echo(f"{folder / 'ca.crt'}: copy it to that machine, into /etc/rsdgc")
        typer.echo("a site whose folder is not here needs it too; restart rsdgc-site at every site")
    else:
        provision.renew_certificate(federation, days)
    typer.echo(
        f"{out / 'server' / 'server.crt'} and server.key: copy them to the server, into "
        "/etc/rsdgc, and restart the server and nginx"
    )


def check(
    config: Annotated[Path, typer.Option(help="The server.toml or site.toml of this machine.")],
    as_json: AsJson = False,
) -> None:
    """Check what a server or site needs to run.

    Exits with 1 if a check failed.
    """
    from fl_app.deploy.checks import check_server, check_site, format_table
    from fl_app.deploy.party_config import ServerConfig, read_party
    from rsdgc.errors import RunError

    party = read_party(config)
    results = list(check_server(party) if isinstance(party, ServerConfig) else check_site(party))
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        typer.echo(format_table(results))
    if num_failed := sum(result.status == "FAILED" for result in results):
        raise RunError(f"{num_failed} of {len(results)} checks failed")


def start(config: ServerFile = SERVER_FILE) -> None:
    """Run the SuperLink until it is stopped."""
    from fl_app.deploy.party_config import read_server
    from fl_app.deploy.server_link import start_superlink

    start_superlink(read_server(config))


def register(config: ServerFile = SERVER_FILE) -> None:
    """Admit the sites that have a public key.

    Public keys are the files *.pub in the folder "keys" of the configuration. A site with another
    key than before is admitted with the new one only. Exits with 1 if a site could not be admitted;
    the others are.
    """
    from fl_app.deploy.party_config import read_server
    from fl_app.deploy.server_link import connect, register_sites

    server = read_server(config)
    for line in register_sites(server, connect(server)):
        typer.echo(line)


def revoke(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    config: ServerFile = SERVER_FILE,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Exclude a site: withdraw its key for good.

    The server refuses the site's next call. It never admits this key again, so the site needs a
    new one to return.
    """
    from fl_app.deploy.party_config import read_server
    from fl_app.deploy.server_link import connect, registered_site, revoke_site
    from rsdgc.errors import RunError

    server = read_server(config)
    key = registered_site(server, site).key
    typer.echo(
        f"site {site} has the key {key}. Revoking it is final: the server never admits this key "
        f"again. To return, the site needs a new one: rsdgc deploy renew --site {shlex.quote(site)}"
    )
    if not yes and not typer.confirm(f"Revoke the key of {site}?"):
        raise RunError(f"nothing was changed: site {site} keeps its key")
    typer.echo(revoke_site(server, connect(server), site))


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
        int | None, typer.Option(help="Sites to wait for; default: all registered sites.")
    ] = None,
) -> None:
    """Train over the sites.

    Follows the run to its end and exits with 1 if it does not complete. A run continues if you
    leave this command.
    """
    from fl_app.deploy import party_config, run_commands

    options = {
        "method": method,
        "budget": budget,
        "model": model,
        "rounds": rounds,
        "seed": seed,
        "min-sites": min_sites,
    }
    server = party_config.read_server(config)
    with explain_interruption(lambda: _LEFT):
        run_commands.run(server, out, overrides or [], given(options))


def watch(
    run: RunChoice = None,
    config: ServerFile = SERVER_FILE,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print sites and runs as JSON, and follow none.")
    ] = False,
) -> None:
    """Show sites and runs, and follow a run.

    Follows the newest run that is active by default, and exits with 1 if it does not complete.
    """
    from fl_app.deploy import party_config, run_commands
    from rsdgc.errors import SettingError

    server = party_config.read_server(config)
    if as_json:
        if run is not None:
            raise SettingError(f"--json lists all runs and follows none: leave out {run}")
        print_json(run_commands.overview(server))
        return
    with explain_interruption(lambda: _LEFT):
        run_commands.watch(server, run)


def stop(run: RunChoice = None, config: ServerFile = SERVER_FILE) -> None:
    """Stop a run, by default the active one.

    rsdgc server resume continues it.
    """
    from fl_app.deploy import party_config, run_commands

    stopped = run_commands.stop(party_config.read_server(config), run)
    typer.echo(f"run {stopped.run_id}: {stopped.status}")


def resume(
    out: Annotated[
        str,
        typer.Argument(help="Name of the run's folder in runs-dir, or Flower's number of the run."),
    ],
    overrides: Overrides = None,
    config: ServerFile = SERVER_FILE,
    min_sites: Annotated[
        int | None, typer.Option(help="Sites to wait for; default: as at the start.", min=1)
    ] = None,
) -> None:
    """Continue an unfinished run.

    It continues from its last checkpoint, with its own settings. KEY=VALUE may change those that
    do not enter its result, such as round-timeout-s.
    """
    from fl_app.deploy import party_config, run_commands

    server = party_config.read_server(config)
    with explain_interruption(lambda: _LEFT):
        run_commands.resume(server, out, overrides or [], min_sites)


def start_site(
    config: SiteFile = SITE_FILE,
    *,
    app: Annotated[
        bool, typer.Option(help="Start the app, too; without it: rsdgc site start-app.")
    ] = True,
    listen: Annotated[
        str, typer.Option(help="Address on which the SuperNode serves the app.")
    ] = "127.0.0.1",
) -> None:
    """Run this site's SuperNode until it is stopped.

    It has the site's key and speaks to the server. An app that it starts itself can read the key.
    """
    from fl_app.deploy import party_config, supernode

    supernode.start(party_config.read_site(config), with_app=app, listen=listen)


def start_app(
    config: SiteFile = SITE_FILE,
    secret: Annotated[
        Path | None, typer.Option(help="Own copy of app-secret; default: the file itself.")
    ] = None,
    node: Annotated[
        str, typer.Option(help="Address at which the SuperNode serves the app.")
    ] = "127.0.0.1",
) -> None:
    """Run this site's app, which trains, until it is stopped.

    It runs the code that the server sends, so it should be another user than the SuperNode. It
    needs no network and no key.
    """
    from fl_app.deploy import party_config, site_app

    site_app.start_app(party_config.read_site(config), secret, node)


def site_status(config: SiteFile = SITE_FILE, as_json: AsJson = False) -> None:
    """Show this site's SuperNode, its app and its states.

    Exits with 1 if the SuperNode does not run, or lacks its app.
    """
    from fl_app.deploy import party_config, supernode
    from rsdgc.errors import RunError

    site = party_config.read_site(config)
    status = supernode.status(site)
    if as_json:
        print_json(asdict(status))
    else:
        typer.echo("\n".join(status.lines()))
    if not supernode.is_running(site):
        raise RunError(f"site {site.name} is not running: start it with rsdgc site start")
    if supernode.lacks_app(site):
        raise RunError(f"site {site.name} has no app: start it with rsdgc site start-app")
