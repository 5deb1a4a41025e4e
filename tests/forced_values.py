"""Values that no training text has, forced on each state."""

from sage_core.engines.steering import Force, Steering

FORCED = Steering(
    forces=(
        Force("agent", "motivation", ("Zoë's {odd} wish, no 7",)),
        Force("agent", "topic", ("cats", "xylophonic 😀", "dogs")),
        Force("user", "emotion", ("grumpyish",)),
    )
)
FORCED_AGENT = "Zoë's {odd} wish, no 7", ("cats", "xylophonic 😀", "dogs")
