"""Measurements beside their limits; see README.md."""
