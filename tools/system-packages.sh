#!/bin/sh
# Installs what the tests need besides Python where it may; where it may not, says what is left out.
set -eu
set --
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    set -- chromium chromium-driver
fi
command -v redis-server >/dev/null || set -- "$@" redis-server
command -v turnserver >/dev/null || set -- "$@" coturn
[ $# -gt 0 ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $*"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    exit 0
fi
for package; do
    case $package in
    chromium)
        echo "left out, for want of chromium and chromedriver on the path: the tests marked" \
            "'browser' in tests/e2e (test_browser_call.py and one of test_context.py)"
        ;;
    coturn)
        echo "left out, for want of turnserver on the path: the tests marked 'coturn'"
        ;;
    redis-server)
        echo "left out, for want of redis-server on the path: the tests marked 'redis'"
        ;;
    esac
done
