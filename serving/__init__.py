"""Answers questions from the online store and the line that the champion pointer names."""
