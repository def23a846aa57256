"""Comparisons with peers and with earlier versions, in one run each; started by tools/."""
