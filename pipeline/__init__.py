"""promptmill: runs prompt datasets as bulk chat requests and writes the answers to Parquet."""

__version__ = "0.1.0"
