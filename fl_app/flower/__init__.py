"""Flower as this app starts it: its command line, a private SuperLink, its processes."""
