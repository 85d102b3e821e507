#!/bin/sh
# The pytest options that leave the browser tests out where there is no browser.
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    echo "-m 'not browser'"
fi
