"""Tokens: a sponsor's word, carried in a packet, that he pays for one flow."""
