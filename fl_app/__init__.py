"""What people start: the Flower server and client apps, the command line, models and the report."""
