"""LoRA training on TRL: fine-tuning on dialogues, preference learning on pairs."""
