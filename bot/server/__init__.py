"""The HTTP application: the page, the WebRTC offers, health."""
