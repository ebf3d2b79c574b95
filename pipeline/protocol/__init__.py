"""The wire formats, one module each: pure functions from bytes to records and back; no I/O, no clock."""
