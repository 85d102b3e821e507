#!/bin/sh
# Installs what the browser tests need where it may; where it may not, says what is left out.
set -eu
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing chromium and chromium-driver"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        chromium chromium-driver >/dev/null
    exit 0
fi
echo "left out, for want of chromium and chromedriver on the path: the tests marked 'browser'" \
    "in tests/e2e (test_browser_call.py and one of test_context.py)"
