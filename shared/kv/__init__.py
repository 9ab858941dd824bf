"""The KV entry: its layout, its codec, and the stores that hold it."""
