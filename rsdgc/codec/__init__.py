"""The wire format and the coders under it: an update as bytes, and back."""
