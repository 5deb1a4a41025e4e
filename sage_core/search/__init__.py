"""Self-play search: simulated conversations in which the agent's best candidate is kept."""
