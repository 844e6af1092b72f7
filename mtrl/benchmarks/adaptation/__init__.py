"""How fast learners adapt, beside the libraries in use, after checking that all compute the same."""
