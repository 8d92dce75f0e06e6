"""What a model is to Rivermill: flavors, canonical digests, signatures, lines and their guards."""
