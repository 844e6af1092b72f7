"""Environments of others in supervised worker processes."""
