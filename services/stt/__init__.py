"""Speech to text: the engine contract, the engines, and the Pipecat service that runs one."""
