"""What is compared: one file is one method, read from top to bottom. No method imports another."""
