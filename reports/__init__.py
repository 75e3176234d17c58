"""What is said about finished runs: statistics, tables, plots. Never trains, never imports torch."""
