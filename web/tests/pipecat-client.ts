// A page's whole code, as Pipecat's documentation has one write it: their client, their transport,
// their media manager. `?endpoint=` says where the agent's `/start` is.
import { PipecatClient } from "@pipecat-ai/client-js";
import { SmallWebRTCTransport, WavMediaManager } from "@pipecat-ai/small-webrtc-transport";

const endpoint = new URLSearchParams(location.search).get("endpoint");
const heard = document.querySelector("[data-testid=agent]")!;

const client = new PipecatClient({
  transport: new SmallWebRTCTransport({ mediaManager: new WavMediaManager() }),
  enableMic: true,
  callbacks: {
    onTrackStarted: (track, participant) => {
      if (participant?.local || track.kind !== "audio") return;
      const audio = new Audio();
      audio.srcObject = new MediaStream([track]);
      void audio.play();
    },
    onTransportStateChanged: (state) => document.body.setAttribute("data-state", state),
    onBotOutput: ({ text }) => heard.append(`${text} `),
    onError: (error) => document.body.setAttribute("data-error", JSON.stringify(error)),
  },
});
document
  .querySelector("[data-testid=leave]")!
  .addEventListener("click", () => void client.disconnect());
client
  .startBotAndConnect({ endpoint: endpoint! })
  .catch((error: Error) => document.body.setAttribute("data-error", String(error)));
