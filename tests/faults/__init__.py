"""Breaks runs on purpose and says what survived: `python -m tests.faults` for the table, `--long` for more.

A trial is survived where the run goes on to the same bits as one that nothing has happened to, log included,
or where it ends in a sentence that names what is wrong. All draws have fixed seeds.
"""
