"""Queries made of sentences, images and rows of an index, and the re-ranking of what they find."""
