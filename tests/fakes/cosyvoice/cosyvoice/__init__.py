"""Stands for the package of a CosyVoice checkout."""
