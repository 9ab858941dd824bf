"""What is measured, and how; `results/` holds what came out, on which machine."""
