"""Litmus tests: the guarantee of a checkpoint, in tests of two or three writes that are run in every order.

`cases.py` has them as a table; `bench.py` is what they run on, `interleave.py` runs one in every order of its choices,
`page.py` writes the page of the guides that lists them.
"""
