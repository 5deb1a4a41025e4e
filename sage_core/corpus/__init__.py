"""From raw conversations to training dialogues: readers, filters, funnel."""
