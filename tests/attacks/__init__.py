"""Known ways to ride free or to inflate a bill, each with the bill that it leads to."""
