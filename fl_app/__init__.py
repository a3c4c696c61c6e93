"""What people start: the Flower server and client apps, the command line, models and the report.

``cli`` (with ``cli_data``, ``cli_use``, ``cli_weights``, ``cli_deploy``, ``cli_options``)
    The ``rsdgc`` command. ``interruption`` says what stands when it is ended early, ``doctor``
    checks the machine, ``model_catalog`` lists the models without loading them.
``settings``, ``methods``
    The configuration of a run, and what each method stands for.
``simulation``, ``compare``, ``flower``
    Runs on one machine, several of them side by side, and Flower's own processes.
``deploy``
    A federation of real servers and sites.
``server_app``, ``strategy``, ``statistics_round``, ``runs``
    The server of a run: it finds the sites, runs the rounds and writes the run folder.
``client_app``, ``site_data``, ``data_loaders``, ``models``, ``default_data``, ``home``
    A site of a run: its data, its model and its replies.
``report``
    The HTML report of a run folder.
``delivered_model``, ``predict``, ``export``, ``model_card``
    What a run delivers: its model on whole scenes, and packed for others.

Settings go from the command line through Flower's run config to server and sites; results come back
as files in the run folder.
"""
