#!/bin/sh
# Builds the vCenter simulator from Debian's packages golang-go and golang-github-vmware-govmomi-dev, once for each
# state of main.go and of the package, and prints where the program is.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
package=golang-github-vmware-govmomi-dev
state=$( (dpkg-query -W -f '${Version}\n' $package; cat "$here/main.go") | sha256sum | cut -c1-16)
cache="${TMPDIR:-/tmp}/drsim-vcsim-$(id -u)"
mkdir -p -m 700 "$cache"
[ -O "$cache" ] || { echo "$cache belongs to somebody else" >&2; exit 1; }
exec 9>"$cache/lock"
flock 9
if [ ! -x "$cache/vcsim-$state" ]; then
    cd "$here"
    GO111MODULE=off GOFLAGS= GOPATH=/usr/share/gocode GOCACHE="$cache/go" CGO_ENABLED=0 \
        go build -ldflags '-s -w' -o "$cache/vcsim-$state.new" main.go >&2
    mv "$cache/vcsim-$state.new" "$cache/vcsim-$state"
fi
echo "$cache/vcsim-$state"
