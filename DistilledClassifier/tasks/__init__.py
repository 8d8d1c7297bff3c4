"""The tasks of classification, for the one loop that trains everything."""
