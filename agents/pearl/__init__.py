"""PEARL (Rakelly et al. 2019, arXiv:1903.08254): SAC that infers from a few transitions which task it is in."""
