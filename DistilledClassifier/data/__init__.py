"""Labelled images as a training sees them."""
