"""Feast views, windows over event time, online and offline stores, versioned datasets."""
