"""The in-memory broker behind `memory://` URLs."""
