"""The regression gate: finished runs against stored baselines, or against the same runs of other code.

runs        a run as the gate sees it: its key, its figures, its bits
statistics  Student's bounds, and the smallest fall that N seeds can show
baselines   the file: what it holds, reading, writing, updating
tolerant    is a figure further off than other seeds, or another machine, would put it?
exact       are they the same bits? On one machine, with as many threads
verdict     the rows of the table, what fails, the report for CI

Lives here: everything that says whether a number has moved. Must not: torch; training; tables of reports.
"""
