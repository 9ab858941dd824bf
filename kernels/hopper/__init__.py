"""Attention with its work split between warps, for Hopper: one warpgroup copies, two multiply.

Both attention ops are built from two roles. `copy_tiles` brings the K and V tiles of a history into
shared memory, from wherever their rows lie; `attend_rows` runs 64 query rows of a tile over them.
They meet at four rings of barriers: a tile is full, then empty again. Copies come in the order in
which they are used, K0 K1 V0 K2 V1 ..., the newest tile first: it alone can be part-filled or cross
the diagonal. While a warpgroup takes exponentials the tensor cores run the other one's products,
and its own next ones (the schedule of FlashAttention-3, arXiv 2407.08608).
"""
