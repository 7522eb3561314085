#!/bin/sh
# Make .bench/peers: a throwaway environment with TRL and verl beside the project's torch and transformers.
# The project's environment is only read: what the peers need beyond it is installed here, pinned by locks/peers.txt.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
peers=$root/.bench/peers
stamp=$peers/lock.sha256
want=$(sha256sum <"$root/locks/peers.txt")
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0
rm -rf "$peers"
"$python" -m venv --without-pip "$peers"
"$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
  >"$("$peers/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")/project.pth"
"$peers/bin/python" -m pip install --quiet --no-deps -r "$root/locks/peers.txt"
echo "$want" >"$stamp"
