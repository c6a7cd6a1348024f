"""Real servers for the tests, one module each; `make servers` installs them."""
