"""Text to speech: the engine contract, the engines, and the Pipecat service that runs one."""
