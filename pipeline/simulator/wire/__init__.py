"""The server's side of the provider's two wire formats: bytes to calls, answers to bytes.

    stream      what a stream is made of, and the steps of an answer in either dialect
    compatible  the compatible mode
    native      the native protocol, text and multimodal

Pure functions on bytes. The client's side is `pipeline.protocol`; the two share no code, so that each can
judge the other.
"""
