"""The families, one a file. What all of them share is in model.py (what a model says of itself) and layers.py (blocks)."""
