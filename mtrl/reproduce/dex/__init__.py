"""Dex (Erickson and Zhao 2017, arXiv:1706.05749) on the levels of `hexagon`: `mtrl reproduce dex`.

`courses` says what is trained, `training` trains it, `playing` measures it, `jobs` does so in processes,
`ledger` counts what it cost, `results` compares, and `experiment` writes the page with `page` and `figure`.
"""
