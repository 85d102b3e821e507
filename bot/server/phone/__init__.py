"""Calls over the telephone: carriers that carry a call's audio over a WebSocket of ours."""
