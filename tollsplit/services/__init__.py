"""The five services, thin: each a state machine, tables beside the ledger, and HTTP routes."""
