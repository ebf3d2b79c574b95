"""A DashScope-like server on loopback: token counts, rate limits, latency and faults as asked, and a ledger.

    settings   what is asked of it; option strings to Settings
    latency    how long answers take
    faults     what goes wrong, how often
    quota      requests and tokens per minute, enforced per window
    answers    what it says; instances, a value that fits a JSON Schema
    chat       request bytes to an ask, an ask to the documented response
    refusals   the documented error bodies
    ledger     what was received and answered
    server     the HTTP side

It shares the wire formats, the catalogue and the token counts with the client and nothing else, so that it
can judge it.
"""
