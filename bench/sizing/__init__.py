"""What an operator must provide for: memory, disk and processors, measured and not guessed.

`python -m bench.sizing` prints the tables of `docs/sizing.md`, of the machine that it runs on.
"""
