"""Reproductions of published tables, one command each."""
