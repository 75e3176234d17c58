"""The methods that are compared: one file is one method, read from top to bottom. It inherits within its
family alone."""
