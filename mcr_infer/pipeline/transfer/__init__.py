"""Vectors travel: out of an index into Parquet or npy, into an index from there or from elsewhere, from index to index.

index -> rows -> sink (parquet, npy)          `exporting`
source (parquet, npy) -> rows -> index        `importing`
indexes -> rows, files, locals -> index       `merging`
"""
