"""The folders of a federation: complete, private, and never overwritten."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fl_app.deploy import SERVER_DAYS
from fl_app.deploy.checks import check_certificate
from fl_app.deploy.credentials import (
    fingerprint,
    make_pair,
    read_certificate,
    read_private,
    read_public,
)
from fl_app.deploy.endpoint import Endpoint, UntrustedServerError
from fl_app.deploy.party_config import read_party, read_server, read_site
from fl_app.deploy.provision import (
    Federation,
    add_site,
    init_federation,
    open_federation,
    renew_authority,
    renew_certificate,
    renew_site_key,
    write_once,
)
from rsdgc.errors import SettingError
from tests.command import rsdgc
from tests.deployment.parties import edit


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_secrets_are_private_and_where_they_belong(federation: Federation) -> None:
    files = everything(federation.folder)
    secret = {name for name, content in files.items() if b"PRIVATE KEY" in content}
    assert secret == {
        *("authority/ca.key", "server/server.key"),
        *("sites/alpha/node.key", "sites/beta-2/node.key"),
    }
    secret |= {"sites/alpha/app.secret", "sites/beta-2/app.secret"}
    assert files["sites/alpha/app.secret"] != files["sites/beta-2/app.secret"]
    for name in files:
        mode = stat.S_IMODE((federation.folder / name).stat().st_mode)
        assert mode == (0o600 if name in secret else 0o644), name
    for folder in (
        federation.folder,
        *(path for path in federation.folder.rglob("*") if path.is_dir()),
    ):
        mode = stat.S_IMODE(folder.stat().st_mode)
        assert mode == (0o755 if folder.name == "code" else 0o700), folder
    assert {name for name in files if name.startswith("sites/alpha/")} == {
        f"sites/alpha/{name}"
        for name in (
            *("site.toml", "ca.crt", "node.key", "node.pub", "app.secret"),
            *("compose.yaml", "rsdgc-site.service", "rsdgc-site-app.service"),
        )
    }
    assert files["sites/alpha/ca.crt"] == files["server/ca.crt"] == files["authority/ca.crt"]
    assert files["sites/alpha/node.pub"] == files["server/sites/alpha.pub"]
    assert files["sites/alpha/node.key"] != files["sites/beta-2/node.key"]


def test_a_hostile_umask_opens_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_once(tmp_path / "key", b"x", 0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_what_is_made_is_what_flower_and_openssl_read(federation: Federation) -> None:
    server, alpha = federation.folder / "server", federation.folder / "sites" / "alpha"
    assert check_certificate(read_server(server / "server.toml")).status == "ok"
    words = ["openssl", "verify", "-x509_strict", "-CAfile", alpha / "ca.crt"]
    subprocess.run([*words, server / "server.crt"], check=True, capture_output=True)
    subprocess.run(
        [*words, "-verify_ip", "127.0.0.1", "-verify_hostname", "fl.example.org",
         server / "server.crt"], check=True, capture_output=True,
    )  # fmt: skip
    key = load_ssh_private_key((alpha / "node.key").read_bytes(), password=None)
    assert key.public_key() == read_public(server / "sites" / "alpha.pub")
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", alpha / "node.pub"], check=True, capture_output=True, text=True
    ).stdout
    assert fingerprint(read_public(alpha / "node.pub")) in shown


def test_a_second_call_changes_nothing_and_makes_what_is_missing(federation: Federation) -> None:
    before = everything(federation.folder)
    path = federation.folder / "sites" / "alpha" / "site.toml"
    path.write_text(path.read_text() + "# mine\n")
    (federation.folder / "sites" / "beta-2" / "ca.crt").unlink()
    init_federation(federation.folder, list(federation.names), federation.port, ["alpha", "gamma"])
    add_site(federation, "beta-2")
    after = everything(federation.folder)
    assert after.pop("sites/alpha/site.toml").endswith(b"# mine\n")
    assert {name for name in after if name not in before} == {
        "server/sites/gamma.pub",
        *(name for name in after if name.startswith("sites/gamma/")),
    }
    for name in before:
        assert name in ("sites/alpha/site.toml", "compose.yaml") or after[name] == before[name], (
            name
        )


def test_a_folder_that_was_handed_over_gets_no_second_key(federation: Federation) -> None:
    registered = (federation.folder / "server" / "sites" / "alpha.pub").read_bytes()
    (federation.folder / "sites" / "alpha" / "node.key").unlink()
    folder = add_site(federation, "alpha")
    assert not (folder / "node.key").exists()
    assert (federation.folder / "server" / "sites" / "alpha.pub").read_bytes() == registered


def test_a_site_may_bring_its_own_key(federation: Federation, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", tmp_path / "node.key"],
        check=True,
    )
    folder = add_site(federation, "gamma", tmp_path / "node.key.pub")
    assert not (folder / "node.key").exists()
    own = read_private(tmp_path / "node.key").public_key()
    assert read_public(federation.folder / "server" / "sites" / "gamma.pub") == own
    assert open_federation(federation.folder).sites == ["alpha", "beta-2", "gamma"]
    other = tmp_path / "other.pub"
    other.write_bytes(make_pair("gamma")[1])
    with pytest.raises(SettingError, match="already has another key"):
        add_site(federation, "gamma", other)


def test_renewal_changes_the_server_alone(federation: Federation) -> None:
    before = everything(federation.folder)
    renew_certificate(federation)
    after = everything(federation.folder)
    assert {name for name in after if after[name] != before.get(name)} == {
        *("server/server.crt", "server/server.key"),
        *("server/server.crt.old", "server/server.key.old"),
    }
    assert (
        check_certificate(read_server(federation.folder / "server" / "server.toml")).status == "ok"
    )


def test_a_certificate_is_valid_for_the_days_that_are_asked_for(federation: Federation) -> None:
    path = federation.folder / "server" / "server.crt"
    for days in (SERVER_DAYS, 7):
        certificate = read_certificate(path)
        left = certificate.not_valid_after_utc - datetime.now(UTC)
        assert timedelta(days=days - 1) < left <= timedelta(days=days)
        renew_certificate(federation, days=7)
    with pytest.raises(SettingError, match="--days is 0"):
        renew_certificate(federation, days=0)
    assert read_certificate(path) != read_certificate(path.with_name("server.crt.old"))


def test_a_stolen_server_key_is_of_no_use_once_the_authority_is_renewed(
    federation: Federation, serve: Callable[..., int], tmp_path: Path
) -> None:
    alpha = federation.folder / "sites" / "alpha"
    stolen = serve(shutil.copytree(federation.folder / "server", tmp_path / "stolen"))
    old_authority = shutil.copy(alpha / "ca.crt", tmp_path / "ca.crt")
    assert Endpoint("127.0.0.1", stolen, alpha / "ca.crt").health().status == 200
    shutil.rmtree(federation.folder / "sites" / "beta-2")  # was handed over
    folders = renew_authority(federation)
    assert folders == [federation.folder / "server", alpha]
    renewed = serve(federation.folder / "server")
    assert Endpoint("127.0.0.1", renewed, alpha / "ca.crt").health().status == 200
    for port, authority in ((stolen, alpha / "ca.crt"), (renewed, old_authority)):
        with pytest.raises(UntrustedServerError):
            Endpoint("127.0.0.1", port, authority).health()
    words = ["openssl", "verify", "-x509_strict", "-CAfile", alpha / "ca.crt"]
    subprocess.run(
        [*words, federation.folder / "server" / "server.crt"], check=True, capture_output=True
    )
    theirs = [*words, tmp_path / "stolen" / "server.crt"]
    assert subprocess.run(theirs, check=False, capture_output=True).returncode != 0
    assert check_certificate(read_server(folders[0] / "server.toml")).status == "ok"


def test_a_site_gets_a_new_key_and_nothing_else_changes(
    federation: Federation, tmp_path: Path
) -> None:
    before = everything(federation.folder)
    folder = renew_site_key(federation, "alpha")
    after = everything(federation.folder)
    assert {name for name in after if after[name] != before.get(name)} == {
        *("sites/alpha/node.key", "sites/alpha/node.key.old"),
        *("sites/alpha/node.pub", "sites/alpha/node.pub.old"),
        *("server/sites/alpha.pub", "server/sites/alpha.pub.old"),
    }
    public = read_public(federation.folder / "server" / "sites" / "alpha.pub")
    assert public == read_private(folder / "node.key").public_key()
    own = tmp_path / "own.pub"
    own.write_bytes(make_pair("alpha")[1])
    assert not (renew_site_key(federation, "alpha", own) / "node.key").exists()
    assert read_public(federation.folder / "server" / "sites" / "alpha.pub") == read_public(own)
    with pytest.raises(SettingError, match="site delta is not in"):
        renew_site_key(federation, "delta")


def test_renewal_is_one_command(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", federation.folder)
    assert rsdgc(monkeypatch, "deploy", "renew", *out, "--days", "30") == 0
    assert rsdgc(monkeypatch, "deploy", "renew", *out, "--authority") == 0
    assert "alpha/ca.crt: copy it to that machine" in capsys.readouterr().out
    assert rsdgc(monkeypatch, "deploy", "renew", *out, "--site", "alpha") == 0
    assert "copy node.key and node.pub to site alpha" in capsys.readouterr().out
    assert rsdgc(monkeypatch, "deploy", "renew", *out, "--authority", "--site", "alpha") == 2
    assert rsdgc(monkeypatch, "deploy", "renew", *out, "--public-key", "node.pub") == 2


def unit(path: Path) -> dict[str, list[str]]:
    """Return the settings of a systemd unit, each with its values in order."""
    settings: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


def test_the_servers_code_sees_neither_key_nor_network(federation: Federation) -> None:
    folder = federation.folder / "sites" / "alpha"
    node, app = (unit(folder / f"rsdgc-{name}.service") for name in ("site", "site-app"))
    assert node["User"] != app["User"]
    assert app["TemporaryFileSystem"] == ["/etc/rsdgc:ro"]
    shown = " ".join(app["BindReadOnlyPaths"]).split()
    assert shown == ["/etc/rsdgc/site.toml", "-/etc/rsdgc/code"]
    assert app["IPAddressDeny"] == ["any"]
    assert app["IPAddressAllow"] == ["localhost"]
    assert "-/srv/rsdgc/data" in node["InaccessiblePaths"][0].split()
    assert app["InaccessiblePaths"] == [f"-/var/lib/{node['StateDirectory'][0]}"]
    site = read_site(folder / "site.toml")
    assert site.state_dir == Path("/var/lib", app["StateDirectory"][0])
    assert site.node_dir == Path("/var/lib", node["StateDirectory"][0])


def test_units_are_limited(federation: Federation) -> None:
    paths = [*federation.folder.rglob("*.service")]
    assert len(paths) == 5
    for path in paths:
        settings = unit(path)
        for key in ("MemoryMax", "TasksMax", "SystemCallFilter", "RestrictNamespaces"):
            assert key in settings, f"{key} in {path}"
        assert settings["CapabilityBoundingSet"] == [""]
        assert settings["NoNewPrivileges"] == ["yes"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_reads_the_units(federation: Federation, tmp_path: Path) -> None:
    paths = []
    for path in federation.folder.rglob("*.service"):
        if path.parent.name == "beta-2":
            continue
        text = path.read_text(encoding="utf-8").replace("/opt/rsdgc/bin/rsdgc", "/bin/true")
        paths.append(tmp_path / path.name)
        paths[-1].write_text(text, encoding="utf-8")
    assert len(paths) == 3
    words = ["systemd-analyze", "verify", "--man=no", *paths]
    verified = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.parametrize(
    ("names", "port", "sites", "message"),
    [
        ([], 443, ["a"], "--server is empty"),
        (["bad name"], 443, ["a"], "neither a DNS name nor an IP"),
        (["-x.org"], 443, ["a"], "neither a DNS name nor an IP"),
        (["x.org"], 0, ["a"], "--port is 0"),
        (["x.org"], 443, ["a/b"], "is not a site name"),
        (["x.org"], 443, ["../a"], "is not a site name"),
        (["x.org"], 443, [""], "is not a site name"),
    ],
)
def test_a_wrong_name_leaves_nothing(
    tmp_path: Path, names: list[str], port: int, sites: list[str], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        init_federation(tmp_path / "f", names, port, sites)
    assert not (tmp_path / "f").exists()


def test_another_federation_is_not_written_into(federation: Federation, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="belongs to the federation at"):
        init_federation(federation.folder, ["other.org"], 443, [])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(SettingError, match="is not empty"):
        init_federation(tmp_path / "full", ["x.org"], 443, [])
    with pytest.raises(SettingError, match="deploy init first"):
        open_federation(tmp_path)


def test_the_configuration_is_read_as_it_was_made(federation: Federation) -> None:
    server = read_server(federation.folder / "server" / "server.toml")
    assert server.public == "127.0.0.1:8443"
    assert server.listen == "127.0.0.1:8000"
    assert server.keys == federation.folder / "server" / "sites"
    site = read_party(federation.folder / "sites" / "alpha" / "site.toml")
    assert site == read_site(federation.folder / "sites" / "alpha" / "site.toml")
    assert site.private_key == federation.folder / "sites" / "alpha" / "node.key"
    assert site.state_dir == Path("/var/lib/rsdgc")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('server = "nowhere"', "write host:port"),
        ('server = "x:99999"', "write host:port"),
        (
            'server = "https://fl.example.org:443"',
            "'https://fl.* a DNS name or an IP address",
        ),
        ('server = "fl example:443"', "'fl example:443' is not an address: write host:port, with"),
        ('server = "::1:443"', "IPv6 address in brackets"),
        ('server = "[::1:443"', "IPv6 address in brackets"),
        ('server = "[fl.example.org]:443"', "IPv6 address in brackets"),
        ("port = 0", r"port: .* \(it is 0\)$"),
        ("port = true", "port: true is neither a number nor a text"),
        ("gpu-share = 0", "gpu-share: .* greater than 0"),
        ("gpu-share = 1.5", r"gpu-share: .* less than or equal to 1 \(it is 1.5\)$"),
        ("gpu-share = true", "gpu-share: true is neither"),
        ("min-free-gb = false", "min-free-gb: false is neither"),
        ('color = "red"', "color: is not a setting of site.toml: leave it out"),
        ('stat-dir = "s"', "stat-dir: is not a setting of site.toml; did you mean 'state-dir'"),
        ("rounds = 4", "rounds: is not .*, but of a run: give it to rsdgc server run"),
        ("data-dir = '/a \"b\"'", "quotes"),
        ('data-dir = ""', "data-dir: it is empty: write a path"),
        ('init-weights = " "', "init-weights: it is empty: write a path"),
        ("state-dir = 3", "state-dir: 3 is not a path: write a text in quotes"),
        ('code-dir = "~no-such-user/code"', "home folder of ~no-such-user/code is not known"),
        ('name = "a b"', "is not a site name"),
        ("name = ", "is not TOML"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(
    federation: Federation, line: str, message: str
) -> None:
    path = federation.folder / "sites" / "alpha" / "site.toml"
    key = line.split(" ", maxsplit=1)[0]
    kept = [row for row in path.read_text().splitlines() if not row.startswith(f"{key} = ")]
    path.write_text("\n".join([*kept, line]))
    with pytest.raises(SettingError, match=message) as caught:
        read_site(path)
    assert "\n" not in str(caught.value) or "TOML" in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('names = ["fl.example.org", "a b"]', "names.1: 'a b' is neither a DNS name nor an IP"),
        ("names = []", "names: .* at least 1"),
        ('listen = "all:8000:1"', "listen: 'all:8000:1' is not an address"),
        ('runs-dir = ""', "runs-dir: it is empty"),
    ],
)
def test_a_wrong_configuration_of_the_server_is_one_clear_line(
    federation: Federation, line: str, message: str
) -> None:
    path = federation.folder / "server" / "server.toml"
    key = line.split(" ", maxsplit=1)[0]
    kept = [row for row in path.read_text().splitlines() if not row.startswith(f"{key} = ")]
    path.write_text("\n".join([*kept, line]))
    for read in (read_server, read_party):
        with pytest.raises(SettingError, match=message):
            read(path)


def test_the_file_of_another_party_is_named_as_such(federation: Federation) -> None:
    site, server = (
        federation.folder / "sites" / "alpha" / "site.toml",
        federation.folder / "server" / "server.toml",
    )
    with pytest.raises(SettingError, match=r"is a server's file: name this machine's site.toml"):
        read_site(server)
    with pytest.raises(SettingError, match=r"is a site's file: name this machine's server.toml"):
        read_server(site)
    # A server's file that lacks a line is still a server's.
    rows = server.read_text().splitlines()
    server.write_text("\n".join(row for row in rows if not row.startswith("listen")))
    with pytest.raises(SettingError, match="listen: is missing: add the line"):
        read_party(server)


@pytest.mark.parametrize("address", ["[::1]:443", "10.0.0.7:8443", "rsdgc_server:8000", "a.b:1"])
def test_addresses_of_every_kind_are_taken(federation: Federation, address: str) -> None:
    path = federation.folder / "sites" / "alpha" / "site.toml"
    edit(path, server=address, data_dir="~/archive of 2024, ä=b", state_dir="state")
    config = read_site(path)
    assert config.server == address
    assert config.data_dir == Path("~/archive of 2024, ä=b").expanduser()
    assert config.state_dir == path.parent / "state"


def test_an_open_key_is_refused(federation: Federation) -> None:
    key = federation.folder / "sites" / "alpha" / "node.key"
    key.chmod(0o644)
    with pytest.raises(SettingError, match="run chmod 600"):
        read_private(key)
    with pytest.raises(SettingError, match="ssh-keygen"):
        read_public(federation.folder / "server" / "server.crt")


def test_compose_files_agree_with_the_folders(federation: Federation) -> None:
    included = yaml.safe_load((federation.folder / "compose.yaml").read_text())["include"]
    services, networks = {}, {}
    for name in included:
        path = federation.folder / name
        project = yaml.safe_load(path.read_text())
        networks.update(project.get("networks", {}))
        for service, how in project["services"].items():
            services[service] = how
            for volume in how["volumes"]:
                source = volume.split(":")[0]
                if source.startswith("./"):
                    assert (path.parent / source).exists(), volume
    apps = {"alpha-app", "beta-2-app"}
    assert set(services) == {"server", "proxy", "alpha", "beta-2", *apps}
    for service, how in services.items():
        assert how["read_only"], service
        assert how["cap_drop"] == ["ALL"], service
        assert how["security_opt"] == ["no-new-privileges:true"], service
        assert how["tmpfs"], service
        assert how["mem_limit"], service
        assert how["pids_limit"], service
        assert how["user"], service
    for site in ("alpha", "beta-2"):
        app = services[f"{site}-app"]
        assert not any("node.key" in volume for volume in app["volumes"])
        assert not any("data" in volume for volume in services[site]["volumes"])
        assert app["networks"] == [f"app-{site}"]
        assert networks[f"app-{site}"] == {"internal": True}
        assert f"app-{site}" in services[site]["networks"]
    assert services["proxy"]["network_mode"] == "service:server"
    assert services["server"]["ports"] == ["8443:8443"]
    assert services["server"]["networks"]["default"]["aliases"] == ["fl.example.org"]
    assert all(how["command"][-2:-1] == ["--config"] for s, how in services.items() if s != "proxy")
