"""Batches of usage by way of a broker: NATS JetStream between gateways and the one book."""
