"""Many sites for real: what each party needs, checked before it runs, and its commands.

A federation has three kinds of party: the **authority**, which signs the server's certificate and
is needed again only to renew it; the **server**; and the **sites**. :mod:`fl_app.deploy.provision`
makes a folder for each, and every other command reads one party's folder and nothing else.
"""
