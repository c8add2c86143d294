"""Whom we look at: this process, another one, and the buffers in it."""
