"""The commands, a file each: parse the options, call the room that does the work, print.

Lives here: options, tables and JSON of one command. Must not: work that Python may want too.
A command imports what it needs inside its function, so that `--help` answers at once.
"""
