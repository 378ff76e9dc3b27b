"""Measurements quoted in the README and docs."""
