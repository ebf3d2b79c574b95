"""One module a command: its options and help; what it does is in the library below."""
