"""Verification: the explorer, its oracle and checkers, mutants, litmus tests; every property of PROTOCOL.md 9."""
