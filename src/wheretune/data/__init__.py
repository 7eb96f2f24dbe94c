"""Rows -> texts -> tokens -> batches; knows no labels."""
