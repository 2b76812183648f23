"""The commands: train, rehearse, reproduce, embed, report, compare."""
