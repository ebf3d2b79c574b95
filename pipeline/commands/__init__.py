"""One module a command: from the options it was given, through the library, to what it prints and its exit code.

Each has `carry_out`, called with the options that `cli.py` declares; nothing else imports these modules.
"""
