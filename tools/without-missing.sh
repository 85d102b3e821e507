#!/bin/sh
# The pytest options that leave out the tests of programs that are not on the path.
set --
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    set -- "$@" "not browser"
fi
command -v redis-server >/dev/null || set -- "$@" "not redis"
command -v turnserver >/dev/null || set -- "$@" "not coturn"
case $# in
1) echo "-m '$1'" ;;
2) echo "-m '$1 and $2'" ;;
3) echo "-m '$1 and $2 and $3'" ;;
esac
