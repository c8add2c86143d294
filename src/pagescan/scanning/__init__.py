"""Asking: one ``PAGEMAP_SCAN`` call (level 1) and the walk over a whole range (level 2), over either machine."""
