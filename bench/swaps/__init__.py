"""How soon new weights answer, and what callers notice of it: `python -m bench.swaps`.

trainer ─► checkpoints ─► server ◄─ prober          first_answer.py: publication → the first answer with it
                                ◄─ load generator   under_load.py: latency with swaps beside latency without
"""
