"""`crosskv demo`: MovieLens through real processes, measured and told as pictures."""
