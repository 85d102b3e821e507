"""Whether a machine has answered a call of the agent's, by what it says: Pipecat's detector."""

from typing import Literal

from pipecat.extensions.voicemail.voicemail_detector import VoicemailDetector


class MachineDetector(VoicemailDetector):
    """Pipecat's detector, which decides nothing before it has understood something.

    Pipecat's own takes whoever is silent after a noise for a person, for the rest of the call: a
    click or a ring would hide the machine behind it.
    """

    async def cleanup(self) -> None:
        """Decide nothing more; Pipecat's own would, when it stops asking with an answer due."""
        await self._cancel_decision_timer()
        await super().cleanup()

    async def _decide(self, label: Literal["conversation", "voicemail"]) -> None:
        if self._transcript:
            await super()._decide(label)
