#!/bin/sh
# Builds what the tests' containers are made of into a directory: fixture.sh DIR
set -eu
dir=$1 here=$(dirname "$0")
gcc -O1 -Wall -static -o "$dir/actor" "$here/actor.c"
gcc -O1 -Wall -DDYNAMIC -o "$dir/actor-dynamic" "$here/actor.c"
gcc -shared -fPIC -DLIBRARY -o "$dir/actor.so" "$here/actor.c"
mkdir -p "$dir/lib"
ldd "$dir/actor-dynamic" | awk '/=> \//{print $3} /^[[:space:]]*\/.*ld-/{print $1}' | xargs -I{} cp -L {} "$dir/lib/"
cp "$(command -v busybox)" "$dir/busybox"
