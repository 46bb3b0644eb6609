"""Protocols of other servers, as thin translations: their requests → ours, our results → their answers. No HTTP."""
