"""Frames → PACKET rows → counters, in Cython. This is the one door to the core."""
