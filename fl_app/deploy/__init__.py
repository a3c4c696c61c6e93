"""A federation of real machines: its folders, the checks before it runs, and its commands.

A *party* is the server or one of the sites. :mod:`~fl_app.deploy.provision` makes a folder for
each, with keys and certificates from ``credentials``. Every other command reads one party's folder
only, through ``party_config``.

- At the server, ``server_link`` starts the SuperLink, connects to it and registers the sites' keys;
  ``run_commands`` starts, follows, stops and resumes runs, after a ``model_check``.
- At a site, ``supernode`` runs the SuperNode, and ``site_app`` the process that starts the app.
- ``checks`` has what ``rsdgc deploy check`` checks; ``endpoint`` asks the server over TLS.
"""

from pathlib import Path

SERVER_FILE = Path("server.toml")
SITE_FILE = Path("site.toml")
SERVER_DAYS = 180
"""Validity of a server's certificate, days. Flower asks no list of withdrawn certificates, so a
stolen key is of use for so long."""
