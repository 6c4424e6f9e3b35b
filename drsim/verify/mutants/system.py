"""Mutants of what holds for the whole: determinism, replay, conservation."""
