/**
 * `widget.js`: a voice agent on any page.
 *
 * It defines `<parley-agent>`. Where its own `<script>` says `data-agent`, it also puts one of these
 * on the page, with the script's `data-` attributes for its own.
 */

import { ParleyAgent } from "./element";
import { ATTRIBUTES, serverOf } from "./options";

const TAG = "parley-agent";

function addTo(page: HTMLElement, script: HTMLScriptElement, server: string): void {
  const widget = document.createElement(TAG);
  for (const name of ATTRIBUTES) {
    const value = script.dataset[name];
    if (value !== undefined) widget.setAttribute(name, value);
  }
  if (!widget.hasAttribute("server")) widget.setAttribute("server", server);
  page.append(widget);
}

const script = document.currentScript;
if (script instanceof HTMLScriptElement && script.src) {
  const server = serverOf(script.src);
  // Another script of the page may have defined it, with a server of its own.
  if (!customElements.get(TAG)) {
    ParleyAgent.server = server;
    customElements.define(TAG, ParleyAgent);
  }
  if (script.dataset.agent !== undefined) {
    if (document.body) addTo(document.body, script, server);
    else {
      addEventListener("DOMContentLoaded", () => addTo(document.body, script, server), {
        once: true,
      });
    }
  }
}
