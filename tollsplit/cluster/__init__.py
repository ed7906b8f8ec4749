"""Captures accounted by many machines, under a Dask scheduler; the bill is one machine's."""
