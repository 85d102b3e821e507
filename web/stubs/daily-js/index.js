// The WebRTC transport imports Daily's library for its DailyMediaManager only; the page and the
// widget bring a media manager of their own, and ask nobody but the server for anything.
export default {
  getCallInstance() {
    throw new Error("Daily's media manager is not part of this page");
  },
};
