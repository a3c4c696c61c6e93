"""Tests of what shows a run while it goes on."""
