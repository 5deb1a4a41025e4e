"""Small examples that the tests of training share, and settings to train on them in seconds."""

from sage_core.config.model import ModelConfig
from sage_core.config.training import DPOConfig, SFTConfig
from sage_core.schema import Message, PreferencePair, TrainingDialogue, with_roles

FLOAT = ModelConfig(dtype="float32", device="cpu")
STATES = (
    "{u_motivation: complaint, u_emotion: sad, u_topic: [bus]} "
    "{a_motivation: sympathy, a_emotion: caring, a_topic: [bus]} "
)
DIALOGUES = [
    TrainingDialogue(
        with_roles(
            [
                f"I waited {number} hours for the bus" + " again" * number,
                STATES + "Oh no" + ", what happened" * (number % 3),
                "It rained.",
                STATES + "That must have been cold" + " and wet" * number,
            ][: 2 + 2 * (number % 2)]
        )
    )
    for number in range(8)
]
PAIRS = [
    PreferencePair(
        (Message("user", f"My dog ran away {number} nights ago" + "!" * number),),
        STATES + "Oh no. Tell me more" + " and more" * (number % 4),
        STATES + "What" + " then" * (3 - number % 4) + "?",
    )
    for number in range(8)
]
SFT = SFTConfig(epochs=1, batch_size=4, micro_batch_size=2, learning_rate=1e-2)
DPO = DPOConfig(epochs=1, batch_size=4, micro_batch_size=2, learning_rate=1e-2, beta=0.3)
