// The real package loads its call machine from a CDN and carries an error reporter. The transport
// imports it for DailyMediaManager only; the page brings a media manager of its own.
export default {
  getCallInstance() {
    throw new Error("Daily's media manager is not part of this page");
  },
};
