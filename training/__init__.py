"""Predictions meet their labels here, and models learn from the pair."""
