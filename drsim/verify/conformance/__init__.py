"""Conformance: one suite that every platform has to pass."""
