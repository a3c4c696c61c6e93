"""Flower, as this app starts and asks it.

``command``
    The ``flwr`` command for one SuperLink: submit a run, follow its log, ask for its outcome.
``superlink``
    A private SuperLink for a simulation.
``app_starter``
    How a SuperLink and a SuperNode start apps: one process for each run or message, never two.
``processes``
    A process that is ended together with everything it started.
``log_filter``
    The lines of a run's log that a person wants to see.
"""
