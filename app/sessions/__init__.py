"""Episodes whose policy state stays on the server: docs/reference/sessions.md says what a caller sees.

`record` is what is kept of one, `reading` what a request says, `episode` how both lead to the next record; all without
waiting. `memory` and `redis_store` keep records, and `sessions` is where these meet.
"""
