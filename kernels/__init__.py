"""Tensor functions of the two passes: one folder an op, one public function a folder.

Every op has a `reference.py` in plain torch, which is the CPU implementation and the oracle for
any faster one. Nothing here knows of models, stores or services.
"""
