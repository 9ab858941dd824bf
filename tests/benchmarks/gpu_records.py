"""Small records as `crosskv bench kernels` and `crosskv bench passes` write them."""

from __future__ import annotations

from typing import Any

_HEAD: dict[str, Any] = {
    "gpu": "NVIDIA H200",
    "multiprocessors": 132,
    "driver": "580.1",
    "cuda": "13.0",
    "provenance": {
        "commit": "0123456789abcdef",
        "versions": {"torch": "2.11.0", "triton": "3.6.0"},
        "python": "3.12.3",
    },
}


def goal(
    text: str,
    value: float | None,
    reached: str,
    *,
    must: float | None = 1.0,
    aim: float | None = None,
    at_least: bool = True,
) -> dict[str, Any]:
    return {
        "text": text,
        "value": value,
        "at_least": at_least,
        "must": must,
        "aim": aim,
        "reached": reached,
    }


KERNELS: dict[str, Any] = _HEAD | {
    "benchmark": "kernels",
    "ceilings": {
        "flops": 7.8e14,
        "bytes": 4.2e12,
        "exps": 4e12,
        "host_bytes": 5.5e10,
        "copies": {"copy_, 2048 MiB": 2.7e12, "neg, 2048 MiB": 4.2e12, "neg, 256 MiB": 4.1e12},
    },
    "rows": [
        {
            "op": "crossing_attention",
            "case": "coded, B 8, T 16384",
            "ours_us": 40.5,
            "anchors_us": {"sdpa_flash": 296.0, "sdpa_cudnn": 151.0},
            "floor_us": {"flops": 12.0, "bytes": 3.0, "exps": 8.5},
            "plan": "histogram, block_m 128",
            "error": {"ours": 0.0024, "torch": 0.0021},
            "extra_bytes": 1 << 20,
            "timed_by": "graph replay",
            "problems": {"flash_attention_3": "RuntimeError: no such kernel"},
            "goals": [
                goal("times faster than the best dense anchor", 3.73, "aim", must=3.5),
                goal("time over SDPA", 1.07, "must", must=1.15, at_least=False),
            ],
        },
        {
            "op": "pool_router",
            "case": "T 16384",
            "ours_us": 320.0,
            "anchors_us": {"torch": 900.0},
            "floor_us": {"flops": 176.0},
            "plan": "",
            "error": {"ours": 0.001, "torch": 0.002},
            "extra_bytes": 1 << 20,
            "timed_by": "events",
            "problems": {"ours": "RuntimeError: not captured"},
            "goals": [goal("share of the matrix-product rate", 0.55, "missed", must=0.6, aim=0.8)],
        },
        {
            "op": "kv_expand",
            "case": "G 4",
            "ours_us": None,
            "anchors_us": {},
            "problems": {"ours": "relative error 1.0"},
        },
    ],
}

PASSES: dict[str, Any] = _HEAD | {
    "benchmark": "passes",
    "workloads": [
        {
            "name": "W3",
            "about": "lifelong",
            "users": 8,
            "tokens": 16384,
            "candidates": 512,
            "layers": 4,
            "head_dim": 64,
            "contenders": ["collective", "coded compiled"],
            "each_candidate": {
                "sequences_timed": 8,
                "us_timed": 1757.8,
                "us": 900000.0,
                "timed_by": "graph replay",
                "attention": "flash_attention_3",
            },
            "dcat_dense": {
                "context_us": 9000.0,
                "crossing_us": 750.0,
                "both_us": 9750.0,
                "timed_by": {"context": "graph replay", "crossing": "graph replay"},
                "attention": {"causal": "flash_attention_3", "crossing": "sdpa_cudnn"},
                "own_token": "added by the log-sum-exp of the rest",
            },
            "ours": {
                "collective": {
                    "pool_rows": 8192,
                    "context_us": 5000.0,
                    "crossing_us": 500.0,
                    "timed_by": {"context": "graph replay", "crossing": "graph replay"},
                    "users_per_s": 1600,
                    "candidates_per_s": 8192000,
                    "shares": {
                        "context": {"pool_router": 70.0, "matrix products": 30.0},
                        "crossing": {"crossing_attention": 80.0, "matrix products": 20.0},
                    },
                    "error": {"ours": 0.001, "torch": 0.001},
                    "goals": [
                        goal("times faster than each candidate", 163.6, "must", must=7.0),
                        goal("times faster than DCAT dense, crossing pass", 1.5, "must", must=1.3),
                        goal("times faster than DCAT dense, both passes", 1.77, "must", must=1.3),
                    ],
                },
                "coded compiled": {
                    "pool_rows": 2048,
                    "context_us": 4000.0,
                    "crossing_us": 700.0,
                    "timed_by": {"context": "graph replay", "crossing": "events"},
                    "users_per_s": 2000,
                    "candidates_per_s": 5851429,
                    "shares": {
                        "context": {"pool_router": 100.0},
                        "crossing": {"crossing_attention": 100.0},
                    },
                    "error": {"ours": 0.001, "torch": 0.001},
                    "difference": {"crossing": 0.0005, "both": 0.0012},
                    "goals": [
                        goal("times faster than each candidate", 191.49, "must", must=7.0),
                        goal(
                            "times faster than DCAT dense, crossing pass", 1.07, "missed", must=1.3
                        ),
                        goal("times faster than DCAT dense, both passes", 2.07, "must", must=1.3),
                    ],
                },
            },
            "problems": {},
        }
    ],
}
