"""Pictures for people who train: one file per figure, behind `idol-deploy figure`; nothing here is loaded at once."""

__all__: list[str] = []
