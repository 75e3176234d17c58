"""Says what finished runs show: statistics, tables, plots. Never trains, never imports torch.

What may be compared is decided in `groups`, what lies beside a result is read in `evidence`. `published/` and
`ablations/` hold records and no code.
"""
