"""A federation of real machines: its folders, the checks before it runs, and its commands.

A *party* is the server or one of the sites. :mod:`~fl_app.deploy.provision` makes a folder for
each, with certificates from ``authority``, keys from ``node_keys``, and files as ``secret_files``
writes them. Every other command reads one party's folder only, through ``party_config``.

- At the server, ``server_link`` starts the SuperLink and connects to it, ``site_registration``
  registers the sites' keys, and ``run_commands`` starts, follows, stops and resumes runs.
- At a site, ``supernode`` runs the SuperNode.
- ``server_checks`` and ``site_checks`` make up ``rsdgc deploy check``. They use ``checks``, which
  suits either party, and ``endpoint``, which asks the server over TLS.
"""

SERVER_FILE = "server.toml"
SITE_FILE = "site.toml"
