"""A DashScope-like server on loopback: token counts, rate limits, latency and faults as asked, and a ledger.

    settings       what is asked of it; option strings to Settings
    latency        how long answers take
    faults         what goes wrong, how often
    documented     every documented error code, on demand
    refusals       an error answer, and those that the checks give
    quota          requests and tokens per minute, enforced per window
    answers        what it says; instances, a value that fits a JSON Schema
    chat/          a call checked, counted and answered, without HTTP
    wire/          the server's side of both wire formats
    storage/       documents and temporary media that are uploaded
    ledger         what was received and answered
    chat_endpoint  chat calls over HTTP; delivery, how a reply goes over the connection
    server         the paths, and the server's life

It shares the records, the catalogue and the token counts with the client and nothing else, not even the wire
formats: so it can judge it.
"""
