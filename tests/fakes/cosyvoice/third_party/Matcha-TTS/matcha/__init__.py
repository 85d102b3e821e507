"""Stands for Matcha-TTS, the submodule of CosyVoice."""
