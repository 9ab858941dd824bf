"""Training and offline evaluation of a `Ranker` on MovieLens 100K."""
