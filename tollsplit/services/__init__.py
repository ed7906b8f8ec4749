"""The five services over the ledger, and what of them runs elsewhere."""
