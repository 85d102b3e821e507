// The real package tells the client which browser it runs in, for a note to the bot that ours does
// not read, and would be a seventh of the widget.
export default {
  parse() {
    return {};
  },
};
