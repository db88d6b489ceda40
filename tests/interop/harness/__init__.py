"""What the scenes stand on: servers that can be killed, people who use real clients, a browser."""
